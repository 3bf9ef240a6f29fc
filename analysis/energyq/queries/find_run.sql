-- Which run is meant: one by its id, the latest of a name, or those whose id begins so?
SELECT run_id, name, CASE WHEN run_id = $run THEN 'id' WHEN name = $run THEN 'name' ELSE 'prefix' END AS found_by
FROM runs WHERE run_id = $run OR name = $run OR starts_with(run_id, $run)
ORDER BY list_position(['id', 'name', 'prefix'], found_by), t0_ns DESC
