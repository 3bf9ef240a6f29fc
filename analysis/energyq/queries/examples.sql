-- example: What did each run cost, the newest first?
SELECT run, status, seconds, total_j, u_random_j, j_per_token, token_unit, reason
FROM run_totals ORDER BY t0_ns DESC;

-- example: Which stages of a run took most? (its name in place of train)
SELECT path, seconds, gpu_j, cpu_j, total_j, mean_w, coverage, flags
FROM stage_totals WHERE run = 'train' ORDER BY total_j DESC NULLS LAST;

-- example: How much energy went between two instants, whatever ran then?
SELECT device, energy_j(device, max(t_ns) - 60_000_000_000, max(t_ns)) AS last_minute_j
FROM samples GROUP BY device ORDER BY device;

-- example: How did power go, second by second, during a stage?
SELECT s.t_ns // 1_000_000_000 AS second, s.device, avg(s.power_mw) / 1000 AS mean_w, max(s.power_mw) / 1000 AS max_w
FROM samples s JOIN stages g ON s.t_ns BETWEEN g.t0_ns AND g.t1_ns
WHERE g.stage_id = (SELECT stage_id FROM stages WHERE t1_ns IS NOT NULL ORDER BY t0_ns DESC LIMIT 1)
GROUP BY ALL ORDER BY second, device;

-- example: What did a token cost, stage by stage, by each of the counts?
SELECT t.run, t.path, c.unit, c.total_n AS n, t.total_j / nullif(c.total_n, 0) AS j_per_unit
FROM stage_totals t JOIN counts c USING (run_id, stage_id)
ORDER BY t.t0_ns, t.path, c.unit;

-- example: Pipelines beside each other: mean energy by label, and how many repetitions
SELECT r.labels->>'pipeline' AS pipeline, r.labels->>'student' AS student, count(*) AS runs,
  avg(t.total_j) AS mean_j, stddev_samp(t.total_j) AS spread_j
FROM runs r JOIN run_totals t USING (run_id) WHERE r.status = 'ok' GROUP BY ALL ORDER BY ALL;

-- example: Where was nothing measured, and why?
SELECT device, t0_ns, (t1_ns - t0_ns) / 1e9 AS seconds, reason, bridged_uj / 1e6 AS bridged_j
FROM gaps ORDER BY t0_ns DESC;

-- example: Which energies are unknown or doubtful?
SELECT run_id, stage, device, energy_j, u_random_j, coverage, flags, reason
FROM stage_energy WHERE energy_j IS NULL OR u_random_j > 0.05 * energy_j ORDER BY t0_ns;

-- example: Who used which artifact, and what had making it cost?
SELECT a.name, a.kind, m.run AS made_by, t.total_j AS made_for_j, count(DISTINCT u.run_id) AS uses
FROM artifacts a
LEFT JOIN stage_totals t ON t.run_id = a.run_id AND t.stage_id = a.stage_id
LEFT JOIN run_totals m ON m.run_id = a.run_id
LEFT JOIN artifact_uses u ON u.artifact_id = a.artifact_id
GROUP BY ALL ORDER BY made_for_j DESC NULLS LAST;

-- example: For which share of its time did the device of each training idle? (70 W: what it takes when idle)
WITH trained AS (
  SELECT run_id, stage, device, t0_ns, t1_ns, 70.0 AS floor_w FROM stage_energy
  WHERE stage LIKE 'student.train%' AND t1_ns IS NOT NULL
)
SELECT run_id, stage, device, busy_w, covered, starved_share FROM starved('trained') ORDER BY t0_ns, device;
