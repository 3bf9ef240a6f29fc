-- Which artifacts did these runs make or use, by which stage were they made, and by how many completed runs used?
WITH ours AS (
  SELECT artifact_id, run_id FROM artifacts UNION SELECT artifact_id, run_id FROM artifact_uses
)
SELECT o.artifact_id, o.run_id, a.run_id AS made_by, a.name, a.kind, t.stage, t.total_j, t.u_random_j, t.reason,
  (SELECT count(DISTINCT w.run_id) FROM ours w JOIN runs r ON r.run_id = w.run_id AND r.status = 'ok'
    WHERE w.artifact_id = o.artifact_id) AS uses
FROM ours o
JOIN artifacts a ON a.artifact_id = o.artifact_id
LEFT JOIN stage_totals t ON t.run_id = a.run_id AND t.stage_id = a.stage_id
WHERE list_contains($runs::VARCHAR[], o.run_id) AND (t.stage IS NULL OR t.stage ILIKE 'teacher%')
ORDER BY o.run_id, a.t_ns
