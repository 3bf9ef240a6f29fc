-- Which runs are of a pipeline and a student, and how good did each become (last value of the metric)?
SELECT r.run_id, r.name, r.status, r.labels, r.env, r.git_commit, q.value AS quality, q.n AS quality_n
FROM runs r
LEFT JOIN (
  SELECT run_id, arg_max(value, t_ns) AS value, arg_max(n, t_ns) AS n FROM metrics
  WHERE name = coalesce($metric, 'exact_match') GROUP BY run_id
) q ON q.run_id = r.run_id
WHERE (r.labels->>'pipeline') IS NOT NULL AND (r.labels->>'student') IS NOT NULL
ORDER BY r.t0_ns, r.run_id
