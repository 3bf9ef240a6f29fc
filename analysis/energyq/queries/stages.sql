-- What did each stage of a run (or of all runs) cost?
FROM raw_stage_totals($run_id::VARCHAR) ORDER BY run_id, t0_ns, stage_id
