-- Which stage is meant, by its id or the beginning of one?
SELECT run_id, run, stage_id, stage, path, status, t0_ns, t1_ns, seconds, flags, reason
FROM stage_totals WHERE stage_id = $stage OR starts_with(stage_id, $stage)
ORDER BY stage_id <> $stage, stage_id
