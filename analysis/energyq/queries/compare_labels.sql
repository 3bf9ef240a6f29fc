-- Which runs are there, and how are they labelled?
SELECT run_id, name, labels FROM runs ORDER BY t0_ns, run_id
