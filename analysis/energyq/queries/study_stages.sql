-- What did each top stage of these runs cost? Stages of one name are added up by the reader.
SELECT run_id, stage_id, stage, total_j, u_random_j, reason
FROM stage_totals WHERE depth = 0 AND list_contains($runs::VARCHAR[], run_id) ORDER BY t0_ns, stage_id
