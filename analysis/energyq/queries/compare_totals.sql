-- What did each of these runs cost as a whole?
SELECT run_id, run, NULL AS path, status, seconds, total_j, u_random_j, u_total_j, estimated_share, tokens, token_unit,
  domains, flags, reason, t0_ns, t1_ns
FROM run_totals WHERE list_contains($runs::VARCHAR[], run_id) ORDER BY t0_ns, run_id
