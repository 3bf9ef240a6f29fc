-- What does the store hold? The only home of tables, columns, units.
--
-- Every table exists three times with these columns: in hot.duckdb (the current hour), as live Parquet
-- (the current hour as of a minute ago) and as sealed Parquet (each hour before). energyq unions them.
-- Integers as the device gives them (mW, mJ, µJ, ns); joules and watts begin in views.sql.
-- t_ns everywhere: store time, nanoseconds that read as since the epoch, never stepping inside a boot.

CREATE TABLE samples (device UTINYINT, t_ns BIGINT, power_mw INTEGER, cum_uj BIGINT);
COMMENT ON TABLE samples IS 'Power of one device at one instant, and its running integral';
COMMENT ON COLUMN samples.device IS 'number in devices';
COMMENT ON COLUMN samples.t_ns IS 'ns, store time of the sample; strictly rising per device';
COMMENT ON COLUMN samples.power_mw IS 'mW, as the sensor gave it, never clipped';
COMMENT ON COLUMN samples.cum_uj IS 'µJ since the store began; a bridged gap adds the counter''s energy, an unbridged one adds 0';

CREATE TABLE counters (device UTINYINT, t_ns BIGINT, energy_mj BIGINT, cum_uj BIGINT);
COMMENT ON TABLE counters IS 'Hardware energy counter, one read a second per daemon, round robin';
COMMENT ON COLUMN counters.device IS 'number in devices';
COMMENT ON COLUMN counters.t_ns IS 'ns, store time in the middle of the read, less half the counter''s own step: the age of the value on average';
COMMENT ON COLUMN counters.energy_mj IS 'mJ since the driver was loaded';
COMMENT ON COLUMN counters.cum_uj IS 'µJ, the running power integral interpolated to t_ns; NULL where samples do not surround it';

CREATE TABLE conditions (device UTINYINT, t_ns BIGINT, temperature_c SMALLINT, sm_clock_mhz INTEGER, power_limit_mw INTEGER, throttle_bits BIGINT);
COMMENT ON TABLE conditions IS 'What explains an outlier, once a second';
COMMENT ON COLUMN conditions.device IS 'number in devices';
COMMENT ON COLUMN conditions.t_ns IS 'ns, store time';
COMMENT ON COLUMN conditions.temperature_c IS '°C, GPU core';
COMMENT ON COLUMN conditions.sm_clock_mhz IS 'MHz, SM clock';
COMMENT ON COLUMN conditions.power_limit_mw IS 'mW, enforced limit';
COMMENT ON COLUMN conditions.throttle_bits IS 'bit mask of nvmlClocksThrottleReasons';

CREATE TABLE gaps (device UTINYINT, t0_ns BIGINT, t1_ns BIGINT, reason VARCHAR, bridged_uj BIGINT);
COMMENT ON TABLE gaps IS 'Silence longer than the device''s allowed gap';
COMMENT ON COLUMN gaps.device IS 'number in devices';
COMMENT ON COLUMN gaps.t0_ns IS 'ns, last sample before';
COMMENT ON COLUMN gaps.t1_ns IS 'ns, first sample after';
COMMENT ON COLUMN gaps.reason IS 'why nothing was sampled: late, lost …, overrun, suspend, clock_step, reset, driver_reload, daemon_down, reboot, unstored, store_damaged, loop';
COMMENT ON COLUMN gaps.bridged_uj IS 'µJ that the hardware counter gives for the hole; NULL: unknown, so energy across it is NULL';

CREATE TABLE devices (device UTINYINT, t_ns BIGINT, uuid VARCHAR, domain VARCHAR, name VARCHAR, source VARCHAR, origin VARCHAR, period_ns BIGINT, max_step_ns BIGINT, lag_ns BIGINT, depth INTEGER, power_limit_mw INTEGER, driver VARCHAR, accuracy DOUBLE);
COMMENT ON TABLE devices IS 'Each device as probed at a start of the daemon; the newest row of a device holds';
COMMENT ON COLUMN devices.device IS 'its number in this store, given once to each uuid';
COMMENT ON COLUMN devices.t_ns IS 'ns, when this row began to hold';
COMMENT ON COLUMN devices.uuid IS 'GPU UUID, rapl:ZONE or another name that outlives restarts';
COMMENT ON COLUMN devices.domain IS 'gpu, cpu or dram';
COMMENT ON COLUMN devices.name IS 'model, for people';
COMMENT ON COLUMN devices.source IS 'ring, instant, average, rapl, codecarbon, simulated or replay: where its power comes from';
COMMENT ON COLUMN devices.origin IS 'measured, estimated, replayed or simulated';
COMMENT ON COLUMN devices.period_ns IS 'ns, measured time between new values';
COMMENT ON COLUMN devices.max_step_ns IS 'ns, allowed gap: a longer step between samples is a gap';
COMMENT ON COLUMN devices.lag_ns IS 'ns by which a sample trails the load; already taken off t_ns';
COMMENT ON COLUMN devices.depth IS 'samples that the driver''s ring holds; NULL without a ring';
COMMENT ON COLUMN devices.power_limit_mw IS 'mW, enforced limit at the probe';
COMMENT ON COLUMN devices.driver IS 'driver version, or the estimate''s model';
COMMENT ON COLUMN devices.accuracy IS 'share by which all its energies may be off together: half-width of the sensor''s systematic error (0.05: ±5 %)';

CREATE TABLE sensors (device UTINYINT, t_ns BIGINT, sensor VARCHAR, state VARCHAR, period_ns BIGINT, lag_ns BIGINT, depth INTEGER, call_us DOUBLE, call_max_us DOUBLE, agreement DOUBLE, reason VARCHAR);
COMMENT ON TABLE sensors IS 'What the probe found of each way to read a device''s power, used or not; the newest rows of a device hold';
COMMENT ON COLUMN sensors.device IS 'number in devices';
COMMENT ON COLUMN sensors.t_ns IS 'ns, when it was probed';
COMMENT ON COLUMN sensors.sensor IS 'ring, instant, average or counter';
COMMENT ON COLUMN sensors.state IS 'answers, absent (the device has none) or refused (see reason)';
COMMENT ON COLUMN sensors.period_ns IS 'ns, measured median time between new values; NULL: it did not change often enough to tell';
COMMENT ON COLUMN sensors.lag_ns IS 'ns by which its values trail the load, as taken off their stamps; NULL: not known';
COMMENT ON COLUMN sensors.depth IS 'samples that it keeps; NULL where it keeps none';
COMMENT ON COLUMN sensors.call_us IS 'µs, median cost of one call';
COMMENT ON COLUMN sensors.call_max_us IS 'µs, dearest call of the probe';
COMMENT ON COLUMN sensors.agreement IS 'share: energy by the chosen source over that by the counter, less 1, during the probe; on the counter''s row; NULL: not told';
COMMENT ON COLUMN sensors.reason IS 'why it does not answer, or what to know of it';

CREATE TABLE domains (t_ns BIGINT, domain VARCHAR, state VARCHAR, source VARCHAR, reason VARCHAR);
COMMENT ON TABLE domains IS 'What this machine offers for each domain, as found at a start of the daemon';
COMMENT ON COLUMN domains.t_ns IS 'ns, when this row began to hold';
COMMENT ON COLUMN domains.domain IS 'gpu, cpu or dram';
COMMENT ON COLUMN domains.state IS 'measured, estimated, replayed, simulated, absent (the machine has none) or unreadable (it has, we may not)';
COMMENT ON COLUMN domains.source IS 'where its power comes from; NULL if absent or unreadable';
COMMENT ON COLUMN domains.reason IS 'why it is absent, unreadable or estimated';

CREATE TABLE boots (boot_id VARCHAR, t_ns BIGINT, offset_ns BIGINT, host_id VARCHAR, hostname VARCHAR, version VARCHAR);
COMMENT ON TABLE boots IS 'One row per daemon start; offset_ns is fixed at the first in a boot';
COMMENT ON COLUMN boots.boot_id IS 'kernel''s boot id';
COMMENT ON COLUMN boots.t_ns IS 'ns, store time of this start';
COMMENT ON COLUMN boots.offset_ns IS 'ns, store time less CLOCK_BOOTTIME, fixed for the boot';
COMMENT ON COLUMN boots.host_id IS 'random id of this store';
COMMENT ON COLUMN boots.hostname IS 'name of the machine, for people';
COMMENT ON COLUMN boots.version IS 'energyd release';

CREATE TABLE clocks (t_ns BIGINT, boottime_ns BIGINT, realtime_ns BIGINT);
COMMENT ON TABLE clocks IS 'Once a minute: store time beside the wall clock, for people';
COMMENT ON COLUMN clocks.t_ns IS 'ns, store time';
COMMENT ON COLUMN clocks.boottime_ns IS 'ns, CLOCK_BOOTTIME';
COMMENT ON COLUMN clocks.realtime_ns IS 'ns, CLOCK_REALTIME at the same moment';

CREATE TABLE markers (client VARCHAR, seq BIGINT, t_ns BIGINT, arrived_ns BIGINT, kind VARCHAR, run_id VARCHAR, stage_id VARCHAR, body JSON, uid INTEGER, gid INTEGER, pid INTEGER);
COMMENT ON TABLE markers IS 'Every marker as it came: the journal from which runs and stages are made';
COMMENT ON COLUMN markers.client IS 'client id: one process, once';
COMMENT ON COLUMN markers.seq IS 'number of the marker in that client';
COMMENT ON COLUMN markers.t_ns IS 'ns, store time of the instant meant';
COMMENT ON COLUMN markers.arrived_ns IS 'ns, store time of its arrival here';
COMMENT ON COLUMN markers.kind IS 'run_begin, run_labels, run_end, begin, end, count, metric, artifact, artifact_use, process; aborted when the daemon closes a stage';
COMMENT ON COLUMN markers.run_id IS 'run';
COMMENT ON COLUMN markers.stage_id IS 'stage, where there is one';
COMMENT ON COLUMN markers.body IS 'the other fields of the message';
COMMENT ON COLUMN markers.uid IS 'user, from the kernel';
COMMENT ON COLUMN markers.gid IS 'group, from the kernel';
COMMENT ON COLUMN markers.pid IS 'process, from the kernel, in the daemon''s namespace';

CREATE TABLE runs_log (run_id VARCHAR, name VARCHAR, t0_ns BIGINT, t1_ns BIGINT, status VARCHAR, labels JSON, env JSON, git_commit VARCHAR, client VARCHAR, uid INTEGER, pid INTEGER);
COMMENT ON TABLE runs_log IS 'One row per run: open while t1_ns is NULL, the closed row takes its place';
COMMENT ON COLUMN runs_log.run_id IS 'run';
COMMENT ON COLUMN runs_log.name IS 'name given by the program';
COMMENT ON COLUMN runs_log.t0_ns IS 'ns, begin';
COMMENT ON COLUMN runs_log.t1_ns IS 'ns, end; NULL while open';
COMMENT ON COLUMN runs_log.status IS 'open, ok, error or aborted';
COMMENT ON COLUMN runs_log.labels IS 'pipeline, student, seed …';
COMMENT ON COLUMN runs_log.env IS 'argv, host, versions';
COMMENT ON COLUMN runs_log.git_commit IS 'commit of the program''s checkout, with + if it had changes';
COMMENT ON COLUMN runs_log.client IS 'client id of the process that began it; NULL if only children have spoken of it';
COMMENT ON COLUMN runs_log.uid IS 'user, from the kernel';
COMMENT ON COLUMN runs_log.pid IS 'creator process';

CREATE TABLE stages_log (run_id VARCHAR, stage_id VARCHAR, parent_id VARCHAR, name VARCHAR, t0_ns BIGINT, t1_ns BIGINT, doubt_ns BIGINT, status VARCHAR, state VARCHAR, counts JSON, client VARCHAR, uid INTEGER, pid INTEGER, devices UTINYINT[], flags VARCHAR[]);
COMMENT ON TABLE stages_log IS 'One row per stage; energy in energies, one row per device';
COMMENT ON COLUMN stages_log.run_id IS 'run';
COMMENT ON COLUMN stages_log.stage_id IS 'stage';
COMMENT ON COLUMN stages_log.parent_id IS 'stage around it; NULL at the top of a run';
COMMENT ON COLUMN stages_log.name IS 'name given by the program';
COMMENT ON COLUMN stages_log.t0_ns IS 'ns, begin';
COMMENT ON COLUMN stages_log.t1_ns IS 'ns, end; NULL while open';
COMMENT ON COLUMN stages_log.doubt_ns IS 'ns by which an edge may be off: arrival used for a stamp, or an end seen late';
COMMENT ON COLUMN stages_log.status IS 'open, ok, error or aborted';
COMMENT ON COLUMN stages_log.state IS 'open, ended (energy pending) or final';
COMMENT ON COLUMN stages_log.counts IS 'units counted on this very stage: {"label": 4096}';
COMMENT ON COLUMN stages_log.client IS 'client id of the process';
COMMENT ON COLUMN stages_log.uid IS 'user, from the kernel';
COMMENT ON COLUMN stages_log.pid IS 'process';
COMMENT ON COLUMN stages_log.devices IS 'devices charged to it';
COMMENT ON COLUMN stages_log.flags IS 'devices_default, device_guess, mig, synced, arrival_time, aborted …';

CREATE TABLE energies (run_id VARCHAR, stage_id VARCHAR, device UTINYINT, t0_ns BIGINT, t1_ns BIGINT, energy_uj BIGINT, counter_uj BIGINT, self_uj BIGINT, exclusive_uj BIGINT, overlap_ns BIGINT, coverage DOUBLE, n_samples BIGINT, u_random_uj BIGINT, u_total_uj BIGINT, source VARCHAR, flags VARCHAR[], reason VARCHAR, method VARCHAR, integral_uj BIGINT, u_integral_uj BIGINT, u_counter_uj BIGINT, note VARCHAR);
COMMENT ON TABLE energies IS 'What one stage took on one device, computed when a sample followed its end';
COMMENT ON COLUMN energies.run_id IS 'run';
COMMENT ON COLUMN energies.stage_id IS 'stage';
COMMENT ON COLUMN energies.device IS 'number in devices';
COMMENT ON COLUMN energies.t0_ns IS 'ns, begin of the stage';
COMMENT ON COLUMN energies.t1_ns IS 'ns, end of the stage';
COMMENT ON COLUMN energies.energy_uj IS 'µJ, by `method`; NULL: unknown, see reason';
COMMENT ON COLUMN energies.counter_uj IS 'µJ by the hardware counter, carried to the edges by the integral; NULL without a read inside';
COMMENT ON COLUMN energies.self_uj IS 'µJ less the union of its children';
COMMENT ON COLUMN energies.exclusive_uj IS 'µJ less the union of unrelated stages on the same device';
COMMENT ON COLUMN energies.overlap_ns IS 'ns during which an unrelated stage ran on the same device';
COMMENT ON COLUMN energies.coverage IS 'share of the window between samples no further apart than the allowed gap';
COMMENT ON COLUMN energies.n_samples IS 'samples inside the window';
COMMENT ON COLUMN energies.u_random_uj IS 'µJ, k = 2, random part of the doubt; NULL: not stated';
COMMENT ON COLUMN energies.u_total_uj IS 'µJ, k = 2, whole doubt; NULL: not stated';
COMMENT ON COLUMN energies.source IS 'source of the device''s power';
COMMENT ON COLUMN energies.flags IS 'bridged, estimated, replayed, simulated, shared_cpu, too_short, aliased, disagree, aborted …';
COMMENT ON COLUMN energies.reason IS 'why energy_uj is NULL';
COMMENT ON COLUMN energies.method IS 'which of two independent figures energy_uj is: integral (of power) or counter';
COMMENT ON COLUMN energies.integral_uj IS 'µJ, power integral with interpolated edges; NULL: unknown';
COMMENT ON COLUMN energies.u_integral_uj IS 'µJ, k = 2, random doubt of integral_uj';
COMMENT ON COLUMN energies.u_counter_uj IS 'µJ, k = 2, random doubt of counter_uj';
COMMENT ON COLUMN energies.note IS 'what a reader must know of this figure: where the two figures part and which one was kept';

CREATE TABLE shares (device UTINYINT, t_ns BIGINT, pid INTEGER, sm_percent INTEGER);
COMMENT ON TABLE shares IS 'How busy each process keeps a GPU, about once a second, only while more than one uses it';
COMMENT ON COLUMN shares.device IS 'number in devices';
COMMENT ON COLUMN shares.t_ns IS 'ns, store time of the driver''s sample';
COMMENT ON COLUMN shares.pid IS 'process, as NVML numbers it';
COMMENT ON COLUMN shares.sm_percent IS '% of time that its kernels ran on the multiprocessors, by NVML';

CREATE TABLE metrics (run_id VARCHAR, stage_id VARCHAR, t_ns BIGINT, name VARCHAR, value DOUBLE, n BIGINT);
COMMENT ON TABLE metrics IS 'Quality figures of runs';
COMMENT ON COLUMN metrics.run_id IS 'run';
COMMENT ON COLUMN metrics.stage_id IS 'stage, where there is one';
COMMENT ON COLUMN metrics.t_ns IS 'ns, when it was reported';
COMMENT ON COLUMN metrics.name IS 'exact_match, nll …';
COMMENT ON COLUMN metrics.value IS 'in the metric''s own unit';
COMMENT ON COLUMN metrics.n IS 'number of examples behind it; NULL: not said';

CREATE TABLE artifacts (artifact_id VARCHAR, run_id VARCHAR, stage_id VARCHAR, t_ns BIGINT, name VARCHAR, kind VARCHAR, uri VARCHAR, sha256 VARCHAR, size_bytes BIGINT, attrs JSON);
COMMENT ON TABLE artifacts IS 'Things that stages made and others may reuse';
COMMENT ON COLUMN artifacts.artifact_id IS 'artifact';
COMMENT ON COLUMN artifacts.run_id IS 'run that made it';
COMMENT ON COLUMN artifacts.stage_id IS 'stage that made it';
COMMENT ON COLUMN artifacts.t_ns IS 'ns, when it was reported';
COMMENT ON COLUMN artifacts.name IS 'name given by the program';
COMMENT ON COLUMN artifacts.kind IS 'dataset, logit_cache, checkpoint …';
COMMENT ON COLUMN artifacts.uri IS 'where it lies';
COMMENT ON COLUMN artifacts.sha256 IS 'content hash, hexadecimal';
COMMENT ON COLUMN artifacts.size_bytes IS 'bytes';
COMMENT ON COLUMN artifacts.attrs IS 'whatever else the program said of it';

CREATE TABLE artifact_uses (artifact_id VARCHAR, run_id VARCHAR, stage_id VARCHAR, t_ns BIGINT);
COMMENT ON TABLE artifact_uses IS 'Which run used which artifact';
COMMENT ON COLUMN artifact_uses.artifact_id IS 'artifact';
COMMENT ON COLUMN artifact_uses.run_id IS 'run that used it';
COMMENT ON COLUMN artifact_uses.stage_id IS 'stage that used it';
COMMENT ON COLUMN artifact_uses.t_ns IS 'ns, when it was reported';
