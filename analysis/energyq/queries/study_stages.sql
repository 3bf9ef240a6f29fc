-- What did each top stage of these runs cost, and each of these stages wherever it ran?
SELECT run_id, stage_id, stage, depth, status, total_j, gpu_j, cpu_j, u_random_j, estimated_j, tokens, token_unit,
  coverage, reason
FROM stage_totals
WHERE (depth = 0 AND list_contains($runs::VARCHAR[], run_id)) OR list_contains($stages::VARCHAR[], stage_id)
ORDER BY t0_ns, stage_id
