-- Which artifacts did these runs make or use, by which stages were they made, and by how many completed runs used?
-- A run that made one uses it if it also trained. `failed_stages`: attempts at it that came to nothing.
-- Of one that was made elsewhere (origin `reported`) a run here has told: no stage of that run's made it.
WITH used AS (
  SELECT artifact_id, run_id FROM artifact_uses
  UNION
  SELECT a.artifact_id, a.run_id FROM artifacts a
  WHERE a.run_id IN (SELECT run_id FROM raw_stages WHERE regexp_matches(name, '^(student|train)([./].*)?$'))
),
ours AS (SELECT artifact_id, run_id FROM artifacts UNION SELECT artifact_id, run_id FROM used)
SELECT o.artifact_id, o.run_id, a.run_id AS made_by,
  CASE WHEN coalesce(a.attrs->>'origin', '') <> 'reported' THEN a.stage_id END AS stage_id,
  coalesce(s.name, a.attrs->>'made_in') AS stage, a.kind, a.name, a.uri, a.sha256,
  a.size_bytes, a.attrs, string_split(coalesce(a.attrs->>'failed_stages', ''), ' ') AS failed_stages,
  (SELECT count(DISTINCT w.run_id) FROM used w JOIN runs r ON r.run_id = w.run_id AND r.status = 'ok'
    WHERE w.artifact_id = o.artifact_id) AS uses
FROM ours o
LEFT JOIN artifacts a ON a.artifact_id = o.artifact_id
LEFT JOIN raw_stages s ON s.run_id = a.run_id AND s.stage_id = a.stage_id
  AND coalesce(a.attrs->>'origin', '') <> 'reported'
WHERE list_contains($runs::VARCHAR[], o.run_id)
ORDER BY o.run_id, a.t_ns, o.artifact_id
