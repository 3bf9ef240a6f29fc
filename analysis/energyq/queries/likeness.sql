-- On what hardware, by which driver, over which domains, with which tokenizer and training did each run go?
-- Devices as they were then; without DRAM, which no total holds.
WITH used AS (
  SELECT e.run_id, e.device, max(e.t0_ns) AS t0_ns FROM stage_energy e
  WHERE list_contains($runs::VARCHAR[], e.run_id) AND e.domain <> 'dram' GROUP BY ALL
),
as_it_was AS (
  SELECT u.run_id, coalesce(d.name, v.name) AS name, coalesce(d.driver, v.driver, '?') AS driver
  FROM used u ASOF LEFT JOIN raw_devices d ON d.device = u.device AND d.t_ns <= u.t0_ns
  LEFT JOIN devices v ON v.device = u.device
),
counted AS (SELECT run_id, name, count(*) AS n FROM as_it_was GROUP BY ALL),
kinds AS (
  SELECT run_id, string_agg(CASE WHEN n > 1 THEN n || ' × ' ELSE '' END || name, ' + ' ORDER BY name) AS hardware
  FROM counted GROUP BY run_id
),
drivers AS (
  SELECT run_id, string_agg(DISTINCT driver, ' + ' ORDER BY driver) AS driver FROM as_it_was GROUP BY run_id
)
SELECT r.run_id, k.hardware, d.driver, t.domains, r.labels->>'tokenizer' AS tokenizer,
  r.labels->>'train_config' AS train_config
FROM runs r
LEFT JOIN kinds k ON k.run_id = r.run_id
LEFT JOIN drivers d ON d.run_id = r.run_id
LEFT JOIN run_totals t ON t.run_id = r.run_id
WHERE list_contains($runs::VARCHAR[], r.run_id)
