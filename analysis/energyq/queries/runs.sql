-- What did each run cost, oldest first?
FROM run_totals ORDER BY t0_ns, run_id
