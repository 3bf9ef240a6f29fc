-- Which stage is meant: one by its id, those whose id begins so, or the latest of that name or path?
SELECT run_id, run, stage_id, stage, path, status, t0_ns, t1_ns, seconds, flags, reason,
  CASE WHEN stage_id = $stage THEN 'id' WHEN stage = $stage OR path = $stage THEN 'name' ELSE 'prefix' END AS found_by
FROM stage_totals WHERE stage_id = $stage OR stage = $stage OR path = $stage OR starts_with(stage_id, $stage)
ORDER BY list_position(['id', 'name', 'prefix'], found_by), t0_ns DESC, stage_id
