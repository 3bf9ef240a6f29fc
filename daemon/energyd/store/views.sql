-- What may analysis rely on? Joules, watts and seconds as floats begin here.
--
-- Built on one relation `raw_<table>` for each table of schema.sql; energyd.store.base makes those from
-- sealed files, live files and the hot tail. Names that begin with raw_ are scaffolding, not promises.
--
-- What stands in a comment /*lake …*/ is code where the store is a lake of many hosts (`needed.definitions`): there
-- each relation has a host, and `device` is a number of the whole lake, so that no join need ask for both.

CREATE VIEW samples AS SELECT /*lake host, day, */device, t_ns, power_mw, cum_uj FROM raw_samples;
CREATE VIEW counters AS SELECT /*lake host, day, */device, t_ns, energy_mj, cum_uj FROM raw_counters;
CREATE VIEW conditions AS FROM raw_conditions;
CREATE VIEW shares AS FROM raw_shares;
CREATE VIEW gaps AS SELECT /*lake host, */device, t0_ns, t1_ns, reason, bridged_uj FROM raw_gaps;
CREATE VIEW clocks AS FROM raw_clocks;
CREATE VIEW markers AS FROM raw_markers;
CREATE VIEW metrics AS FROM raw_metrics;
-- Who uses an artifact that was made elsewhere tells of it (origin `reported`), each anew: one of these rows,
-- and only where no run of this store made it.
CREATE VIEW artifacts AS
  FROM raw_artifacts
  QUALIFY coalesce(attrs->>'origin', '') <> 'reported' OR row_number() OVER (PARTITION BY artifact_id
    ORDER BY coalesce(attrs->>'origin', '') = 'reported', t_ns/*lake , host*/) = 1;
CREATE VIEW artifact_uses AS FROM raw_artifact_uses;

-- These four stay in hot.duckdb and are sealed as well, so the same row may come twice.
CREATE VIEW boots AS SELECT DISTINCT * FROM raw_boots;
CREATE VIEW devices AS
  FROM raw_devices QUALIFY row_number() OVER (PARTITION BY device ORDER BY t_ns DESC) = 1;
CREATE VIEW sensors AS
  FROM raw_sensors QUALIFY rank() OVER (PARTITION BY device ORDER BY t_ns DESC) = 1
    AND row_number() OVER (PARTITION BY device, sensor ORDER BY t_ns DESC) = 1;
-- Two sources may answer for one domain at one start (RAPL unreadable, estimate instead): the better holds.
CREATE VIEW raw_domain_states AS
  FROM raw_domains
  QUALIFY row_number() OVER (PARTITION BY /*lake host, */domain, t_ns ORDER BY list_position(
    ['measured', 'estimated', 'replayed', 'simulated', 'unreadable', 'absent'], state)) = 1;
CREATE VIEW domains AS
  FROM raw_domain_states QUALIFY row_number() OVER (PARTITION BY /*lake host, */domain ORDER BY t_ns DESC) = 1;

-- A run or stage that was open in one file and closed in a later one: the closed row holds.
CREATE VIEW runs AS
  SELECT /*lake host, */run_id, name, t0_ns, t1_ns, (t1_ns - t0_ns) / 1e9 AS seconds, status, labels, env, git_commit, uid, pid
  FROM raw_runs_log  -- what its creator said counts before what was written when only children had spoken
  QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY client IS NULL, t1_ns DESC NULLS LAST/*lake , host*/) = 1;

CREATE VIEW raw_stages AS
  FROM raw_stages_log
  QUALIFY row_number() OVER (PARTITION BY run_id, stage_id
    ORDER BY list_position(['final', 'ended', 'open'], state), t1_ns DESC NULLS LAST) = 1;

-- What follows is written over names of relations: `stages`, `counts` and all joules read the whole store by them,
-- raw_stage_totals one run's rows, each planned once (DuckDB plans a view anew wherever it is named).

-- Every stage with itself (up = 0) and each of its ancestors. `seen` ends the climb where parents form a ring.
CREATE MACRO raw_kin_of(stage_rows) AS TABLE
  WITH RECURSIVE link AS MATERIALIZED (SELECT run_id, stage_id, parent_id FROM query_table(stage_rows)),
  kin(run_id, stage_id, ancestor_id, up, seen) AS (
    SELECT run_id, stage_id, stage_id, 0, [stage_id] FROM link
    UNION ALL
    SELECT k.run_id, k.stage_id, parent.stage_id, k.up + 1, list_append(k.seen, parent.stage_id)
    FROM kin k
    JOIN link child ON child.run_id = k.run_id AND child.stage_id = k.ancestor_id
    JOIN link parent ON parent.run_id = k.run_id AND parent.stage_id = child.parent_id
    WHERE NOT list_contains(k.seen, parent.stage_id)
  )
  SELECT run_id, stage_id, ancestor_id, up FROM kin;
CREATE VIEW raw_kin AS FROM raw_kin_of('raw_stages');

CREATE MACRO raw_placed(stage_rows, kin_rows) AS TABLE
  WITH place AS (
    SELECT k.run_id, k.stage_id, max(k.up) AS depth, string_agg(a.name, '/' ORDER BY k.up DESC) AS path
    FROM query_table(kin_rows) k JOIN query_table(stage_rows) a ON a.run_id = k.run_id AND a.stage_id = k.ancestor_id
    GROUP BY ALL
  )
  SELECT /*lake s.host, */s.run_id, s.stage_id, s.parent_id, s.name, p.depth, p.path, s.t0_ns, s.t1_ns,
    (s.t1_ns - s.t0_ns) / 1e9 AS seconds, s.doubt_ns, s.status, s.state, s.counts, s.client, s.uid, s.pid,
    s.devices, s.flags
  FROM query_table(stage_rows) s JOIN place p USING (run_id, stage_id);
CREATE VIEW stages AS FROM raw_placed('raw_stages', 'raw_kin');

-- Tokens belong to the stage counted on; a parent shows own + descendants, and so sums its ranks.
CREATE MACRO raw_own_counts_of(stage_rows) AS TABLE
  SELECT run_id, stage_id, c.key AS unit, c.value AS n
  FROM (SELECT run_id, stage_id, unnest(map_entries(counts::MAP(VARCHAR, BIGINT))) AS c FROM query_table(stage_rows));
CREATE VIEW raw_own_counts AS FROM raw_own_counts_of('raw_stages');
CREATE MACRO raw_counts_of(stage_rows, kin_rows) AS TABLE
  SELECT k.run_id, k.ancestor_id AS stage_id, o.unit,
    sum(o.n) FILTER (k.up = 0)::BIGINT AS own_n, sum(o.n)::BIGINT AS total_n
  FROM raw_own_counts_of(stage_rows) o JOIN query_table(kin_rows) k USING (run_id, stage_id)
  GROUP BY ALL;
CREATE VIEW counts AS FROM raw_counts_of('raw_stages', 'raw_kin');

-- One row per stage and device. A stage whose energy is not known yet has a row for each device it is
-- charged to, with NULL and the flag `open` or `pending`,
-- or `store_damaged`: what it cost was known and is lost with a damaged file.
CREATE MACRO raw_energy_of(stage_rows, energy_rows) AS TABLE
  WITH charged AS (
    SELECT *, true AS is_told FROM query_table(energy_rows)
    UNION ALL BY NAME
    SELECT s.run_id, s.stage_id, s.device
    FROM (SELECT run_id, stage_id, unnest(list_distinct(devices)) AS device FROM query_table(stage_rows)) s
    ANTI JOIN query_table(energy_rows) e ON e.run_id = s.run_id AND e.stage_id = s.stage_id AND e.device = s.device
  )
  SELECT /*lake raw_host_of(c.device) AS host, */c.run_id, c.stage_id, s.parent_id, s.name AS stage, c.device, v.domain,
    coalesce(c.t0_ns, s.t0_ns) AS t0_ns, coalesce(c.t1_ns, s.t1_ns) AS t1_ns,
    c.energy_uj / 1e6 AS energy_j, c.counter_uj / 1e6 AS counter_j, c.self_uj / 1e6 AS self_j,
    c.exclusive_uj / 1e6 AS exclusive_j, c.method, c.integral_uj / 1e6 AS integral_j,
    c.u_integral_uj / 1e6 AS u_integral_j, c.u_counter_uj / 1e6 AS u_counter_j, c.note, c.overlap_ns / 1e9 AS overlap_s,
    c.energy_uj * 1e3 / nullif(c.t1_ns - c.t0_ns, 0) AS mean_w, c.coverage, c.n_samples,
    c.u_random_uj / 1e6 AS u_random_j, c.u_total_uj / 1e6 AS u_total_j, coalesce(c.source, v.source) AS source,
    list_sort(list_distinct(list_concat(
      coalesce(c.flags, []::VARCHAR[]), coalesce(s.flags, []::VARCHAR[]),
      CASE WHEN c.is_told THEN []::VARCHAR[] WHEN s.state = 'open' THEN ['open']
        WHEN s.state = 'final' THEN ['store_damaged'] ELSE ['pending'] END,
      CASE WHEN c.is_told IS NULL AND v.origin <> 'measured' THEN [v.origin] ELSE []::VARCHAR[] END
    ))) AS flags,
    CASE WHEN c.energy_uj IS NOT NULL THEN NULL
      WHEN c.is_told THEN coalesce(c.reason, 'unknown')
      WHEN s.state = 'open' THEN 'open' WHEN s.state = 'final' THEN 'store_damaged' ELSE 'pending' END AS reason
  FROM charged c
  LEFT JOIN query_table(stage_rows) s ON s.run_id = c.run_id AND s.stage_id = c.stage_id
  LEFT JOIN devices v ON v.device = c.device;
CREATE VIEW raw_stage_energy AS FROM raw_energy_of('raw_stages', 'raw_energies');
CREATE VIEW stage_energy AS
  SELECT /*lake host, */run_id, stage_id, parent_id, stage, device, domain, t0_ns, t1_ns, energy_j, counter_j, self_j,
    exclusive_j, overlap_s, mean_w, coverage, n_samples, u_random_j, u_total_j, source, flags,
    method, integral_j, u_integral_j, u_counter_j, reason, note
  FROM raw_stage_energy;
