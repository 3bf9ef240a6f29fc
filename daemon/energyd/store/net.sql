-- What did a stage take beyond idling? Its energy less the power of a prerun stage of the same run.
--
-- Gross energy stays the headline: an idling GPU draws its power because the program holds the machine. Two
-- baselines differ by a lot (an H100 draws some 70 W without a CUDA context and 120 W with one), so a
-- baseline has a name: `prerun.idle` without, `prerun.context` with a context; plain `prerun` is what its
-- program says it is. The context baseline is preferred, since the stage itself ran with one.
-- u_net_j holds random doubt only: the sensor's common error scales baseline and stage alike.

-- The baselines of a device: stages by the name `idle`, or (NULL) the prerun stages; with why one cannot serve.
CREATE MACRO raw_baselines(idle) AS TABLE
  SELECT e.run_id, e.device, e.stage_id AS baseline_id, e.stage AS baseline, e.t1_ns, e.mean_w AS baseline_w,
    e.u_random_j * 1e9 / nullif(e.t1_ns - e.t0_ns, 0) AS u_baseline_w,
    CASE WHEN e.mean_w IS NULL THEN 'its energy is unknown'
      WHEN list_contains(e.flags, 'too_short') THEN 'it is shorter than two periods of the sensor (CodeCarbon''s estimate: 1 s each)'
      WHEN e.overlap_s > 0 THEN 'another stage ran on the device meanwhile'
      WHEN EXISTS (FROM raw_stages c WHERE c.run_id = e.run_id AND c.parent_id = e.stage_id
        AND idle IS NULL AND c.name <> 'prerun' AND NOT starts_with(c.name, 'prerun.'))
        THEN 'a stage that is no prerun ran inside it'
    END AS unfit
  FROM raw_stage_energy e
  WHERE CASE WHEN idle IS NULL THEN e.stage = 'prerun' OR starts_with(e.stage, 'prerun.') ELSE e.stage = idle END;

CREATE MACRO raw_net(idle) AS TABLE
  WITH baseline AS MATERIALIZED (FROM raw_baselines(idle)),
  paired AS (
    SELECT /*lake e.host, */e.run_id, e.stage_id, e.stage, e.device, e.domain, (e.t1_ns - e.t0_ns) / 1e9 AS seconds, e.energy_j,
      e.u_random_j, e.reason AS why_unknown, b.baseline_id, b.baseline, b.baseline_w, b.u_baseline_w, b.unfit,
      EXISTS (FROM baseline o WHERE o.run_id = e.run_id AND o.baseline_id = e.stage_id) AS is_baseline,
      row_number() OVER (PARTITION BY e.run_id, e.stage_id, e.device
        ORDER BY b.unfit IS NULL DESC, b.baseline = 'prerun.context' DESC, b.t1_ns DESC) AS choice
    FROM raw_stage_energy e
    LEFT JOIN baseline b ON b.run_id = e.run_id AND b.device = e.device AND b.t1_ns <= e.t0_ns
  ),
  judged AS (
    SELECT *, CASE WHEN energy_j IS NULL THEN coalesce(why_unknown, 'unknown')
      WHEN is_baseline THEN 'it is a baseline itself'
      WHEN baseline_id IS NULL THEN 'no baseline before it on this device'
      WHEN unfit IS NOT NULL THEN baseline || ' cannot serve: ' || unfit END AS reason
    FROM paired WHERE choice = 1
  )
  SELECT /*lake host, */run_id, stage_id, stage, device, domain, seconds, energy_j,
    CASE WHEN reason IS NULL THEN baseline_w END AS baseline_w,
    CASE WHEN reason IS NULL THEN u_baseline_w END AS u_baseline_w,
    CASE WHEN reason IS NULL THEN baseline END AS baseline,
    CASE WHEN reason IS NULL THEN baseline_id END AS baseline_id,
    CASE WHEN reason IS NULL THEN energy_j - baseline_w * seconds END AS net_j,
    CASE WHEN reason IS NULL THEN sqrt(u_random_j ** 2 + (u_baseline_w * seconds) ** 2) END AS u_net_j,
    reason
  FROM judged;

CREATE VIEW stage_net AS FROM raw_net(NULL);
