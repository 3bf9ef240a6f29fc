-- Which run began last?
SELECT run_id FROM runs ORDER BY t0_ns DESC, run_id LIMIT 1
