-- What did each stage of a run (or of all runs) cost, and how much of it beyond idling?
WITH net AS (
  SELECT run_id, stage_id, raw_sum(net_j) AS net_j, raw_rss(u_net_j) AS u_net_j,
    string_agg(DISTINCT baseline, ', ' ORDER BY baseline) AS baselines,
    string_agg(DISTINCT reason, ', ' ORDER BY reason) AS net_reason
  FROM stage_net WHERE domain <> 'dram' GROUP BY ALL
)
SELECT t.*, CASE WHEN t.total_j IS NOT NULL THEN n.net_j END AS net_j,
  CASE WHEN t.total_j IS NOT NULL THEN n.u_net_j END AS u_net_j, n.baselines, coalesce(n.net_reason, t.reason) AS net_reason
FROM stage_totals t LEFT JOIN net n USING (run_id, stage_id)
WHERE $run_id::VARCHAR IS NULL OR t.run_id = $run_id ORDER BY t.run_id, t.t0_ns, t.stage_id
