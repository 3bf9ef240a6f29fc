-- What did each stage take beyond idling, device by device? Idling: the prerun stages, or those called $idle.
SELECT n.* FROM raw_net($idle::VARCHAR) n JOIN stages s USING (run_id, stage_id)
WHERE $run_id::VARCHAR IS NULL OR n.run_id = $run_id
ORDER BY n.run_id, s.t0_ns, n.stage_id, n.device
