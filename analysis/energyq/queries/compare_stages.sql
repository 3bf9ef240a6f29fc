-- Which stages of these runs lie on this path, or below it, and what did each cost?
SELECT run_id, run, path, depth, status, seconds, total_j, u_random_j, u_total_j, estimated_share, tokens, token_unit,
  domains, flags, reason, t0_ns, t1_ns
FROM stage_totals WHERE list_contains($runs::VARCHAR[], run_id) ORDER BY t0_ns, stage_id
