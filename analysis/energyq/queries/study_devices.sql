-- On which devices, by which driver, did each of these runs go? Without DRAM, which no total holds.
WITH used AS (
  SELECT DISTINCT e.run_id, e.device FROM stage_energy e
  WHERE list_contains($runs::VARCHAR[], e.run_id) AND e.domain <> 'dram'
)
SELECT u.run_id, string_agg(DISTINCT v.name, ' + ' ORDER BY v.name) AS hardware,
  coalesce(string_agg(DISTINCT v.driver, ' + ' ORDER BY v.driver), '?') AS driver
FROM used u JOIN devices v ON v.device = u.device GROUP BY u.run_id
