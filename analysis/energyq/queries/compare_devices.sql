-- Which devices are in the totals of these runs, by which driver?
WITH used AS (
  SELECT e.device, max(e.t0_ns) AS t0_ns FROM stage_energy e
  WHERE list_contains($runs::VARCHAR[], e.run_id) AND e.domain <> 'dram' GROUP BY e.device
)
SELECT coalesce(d.uuid, v.uuid) AS uuid, coalesce(d.name, v.name) AS name, coalesce(d.driver, v.driver) AS driver
FROM used u ASOF LEFT JOIN raw_devices d ON d.device = u.device AND d.t_ns <= u.t0_ns
LEFT JOIN devices v ON v.device = u.device
ORDER BY 1
