-- For which share of its time did a device idle inside a stage, as the power curve itself tells?
--
-- A stage is starved when its device waits: for data, for the CPU, for another process. A sample stands for the
-- time since the sample before it, inside the stage; for none over a gap. Busy is the 95th percentile of power
-- over that time. At or below floor + a quarter of the way from the floor to busy counts as near the floor.

-- tbl names a table or view with columns device, t0_ns, t1_ns, floor_w: all its columns, busy_w, covered, starved_share.
-- NULL where no sample stands for any of its time, or where the floor is not known.
CREATE MACRO starved(tbl) AS TABLE
  WITH stages_asked AS (
    SELECT row_number() OVER () AS asked_no, t.*, coalesce(d.max_step_ns, 0) AS step_ns
    FROM query_table(tbl) t LEFT JOIN devices d ON d.device = t.device
  ),
  -- Samples are found by their second, as in macros.sql, with an ordinary step on both sides of the stage.
  seconds_in AS (
    SELECT asked_no, device, t0_ns, t1_ns, step_ns, floor_w,
      unnest(range((t0_ns - step_ns) // 1000000000, (t1_ns + step_ns) // 1000000000 + 1)) AS sec
    FROM stages_asked
  ),
  inside AS (
    SELECT i.*, s.t_ns, s.power_mw / 1e3 AS power_w,
      lag(s.t_ns) OVER (PARTITION BY i.asked_no ORDER BY s.t_ns) AS since_ns
    FROM seconds_in i JOIN samples s ON s.device = i.device AND s.t_ns // 1000000000 = i.sec
    WHERE s.t_ns >= (SELECT min(t0_ns - step_ns) FROM stages_asked)  -- lets Parquet skip
      AND s.t_ns <= (SELECT max(t1_ns + step_ns) FROM stages_asked) + 1000000000
  ),
  standing AS (
    SELECT asked_no, floor_w, power_w, t_ns, least(t_ns, t1_ns) - greatest(since_ns, t0_ns) AS dt_ns
    FROM inside i WHERE t_ns > t0_ns AND since_ns < t1_ns
      AND NOT EXISTS (FROM gaps g WHERE g.device = i.device AND g.t1_ns = i.t_ns)  -- thinned, a step may be long
  ),
  ranked AS (
    SELECT *, sum(dt_ns) OVER (PARTITION BY asked_no ORDER BY power_w, t_ns) AS reached_ns,
      sum(dt_ns) OVER (PARTITION BY asked_no) AS whole_ns
    FROM standing
  ),
  judged AS (
    SELECT asked_no, min(power_w) FILTER (reached_ns >= 0.95 * whole_ns) AS busy_w, any_value(whole_ns) AS whole_ns
    FROM ranked GROUP BY asked_no
  ),
  shared AS (
    SELECT j.asked_no, j.busy_w, j.whole_ns,
      sum(s.dt_ns) FILTER (s.power_w <= s.floor_w + 0.25 * (j.busy_w - s.floor_w)) AS low_ns,
      count(s.floor_w) > 0 AS has_floor
    FROM judged j JOIN standing s USING (asked_no) GROUP BY ALL
  )
  SELECT a.* EXCLUDE (asked_no, step_ns), s.busy_w, s.whole_ns / nullif(a.t1_ns - a.t0_ns, 0) AS covered,
    CASE WHEN s.has_floor THEN coalesce(s.low_ns, 0) / nullif(s.whole_ns, 0) END AS starved_share
  FROM stages_asked a LEFT JOIN shared s USING (asked_no) ORDER BY a.asked_no;

-- One stage of one device. For many, starved() is the faster one.
CREATE MACRO starved_share(device, t0_ns, t1_ns, floor_w) AS (
  WITH one_stage AS (SELECT device AS device, t0_ns AS t0_ns, t1_ns AS t1_ns, floor_w AS floor_w)
  SELECT starved_share FROM starved('one_stage')
);

-- The student's training stages of a list of runs (NULL: of all), each on each device, with the idle floor: the mean
-- power of the run's own stage prerun.idle, else the device's 2nd percentile over all samples of the store. That
-- one is trusted only where busy is half as much again: a device that never idled has no floor to tell.
CREATE MACRO raw_starved_stages(runs) AS TABLE
  -- From the tables themselves: through stage_energy the plan alone would take longer than the answer.
  WITH charged AS MATERIALIZED (
    SELECT e.run_id, e.stage_id, e.device, v.domain, e.t0_ns, e.t1_ns, e.energy_uj, s.name, s.parent_id
    FROM raw_energies e
    JOIN raw_stages s ON s.run_id = e.run_id AND s.stage_id = e.stage_id
    JOIN devices v ON v.device = e.device
    WHERE (runs IS NULL OR list_contains(runs, e.run_id)) AND v.domain <> 'dram'
      AND regexp_matches(s.name, '^(student|train|prerun|idle)([./].*)?$')
  ),
  idled AS (
    SELECT c.run_id, c.device, sum(c.energy_uj) * 1e3 / nullif(sum(c.t1_ns - c.t0_ns), 0) AS floor_w
    FROM charged c LEFT JOIN charged p ON p.run_id = c.run_id AND p.stage_id = c.parent_id AND p.device = c.device
    WHERE c.energy_uj IS NOT NULL AND (c.name = 'prerun.idle' OR (c.name = 'idle' AND p.name = 'prerun'))
    GROUP BY ALL
  ),
  trained AS MATERIALIZED (
    SELECT c.run_id, c.stage_id, c.device, c.domain, c.t0_ns, c.t1_ns, i.floor_w
    FROM charged c LEFT JOIN idled i ON i.run_id = c.run_id AND i.device = c.device
    WHERE regexp_matches(c.name, '^(student|train)([./].*)?$')
  ),
  low AS (
    SELECT s.device, quantile_cont(s.power_mw, 0.02) / 1e3 AS floor_w
    FROM samples s WHERE s.device IN (SELECT device FROM trained WHERE floor_w IS NULL) GROUP BY s.device
  )
  SELECT t.* EXCLUDE (floor_w), coalesce(t.floor_w, l.floor_w) AS floor_w,
    CASE WHEN t.floor_w IS NOT NULL THEN 'prerun.idle' ELSE 'low quantile' END AS floor_by
  FROM trained t LEFT JOIN low l ON l.device = t.device;

-- Of a stage's GPUs together: each counts alike. A CPU's power is the whole machine's, and estimated it follows the
-- load of all that runs there: it says nothing of one training's waiting, so a stage without a GPU has no share.
CREATE MACRO raw_starved_totals(runs) AS TABLE
  WITH asked_stages AS MATERIALIZED (FROM raw_starved_stages(runs)),
  gpus AS MATERIALIZED (FROM asked_stages WHERE domain = 'gpu'),
  told AS (
    SELECT *, CASE WHEN floor_by = 'prerun.idle' OR busy_w >= 1.5 * floor_w THEN starved_share END AS share
    FROM starved('gpus')
  ),
  of_gpus AS (
    SELECT run_id, stage_id, raw_sum(share) / count(*) AS starved_share, avg(floor_w) AS floor_w,
      string_agg(DISTINCT floor_by, ', ' ORDER BY floor_by) AS floor_by,
      CASE WHEN raw_sum(share) IS NULL THEN
        CASE WHEN bool_or(starved_share IS NULL) THEN 'no samples tell' ELSE 'no idle floor: the device never idled' END
      END AS starved_reason
    FROM told GROUP BY run_id, stage_id
  )
  SELECT s.run_id, s.stage_id, g.starved_share, g.floor_w, g.floor_by,
    CASE WHEN g.run_id IS NULL THEN 'no GPU: a CPU''s power is the whole machine''s, not one training''s'
      ELSE g.starved_reason END AS starved_reason
  FROM (SELECT DISTINCT run_id, stage_id FROM asked_stages) s LEFT JOIN of_gpus g USING (run_id, stage_id);
