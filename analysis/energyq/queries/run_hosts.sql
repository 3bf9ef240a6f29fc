-- What did a run take on each of its hosts?
FROM run_hosts WHERE run_id = $run_id ORDER BY host
