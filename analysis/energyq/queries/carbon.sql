-- What did a run (or each run) take altogether, and how well is that known?
SELECT run_id, run, status, total_j, u_total_j, estimated_share, domains, reason, t0_ns
FROM run_totals WHERE $run_id::VARCHAR IS NULL OR run_id = $run_id ORDER BY t0_ns, run_id
