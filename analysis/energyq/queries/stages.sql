-- What did each stage of a run (or of all runs) cost?
FROM stage_totals WHERE $run_id::VARCHAR IS NULL OR run_id = $run_id ORDER BY run_id, t0_ns, stage_id
