-- What is stored of one stage, device by device, and what do the raw samples say now?
WITH explained AS (
  SELECT e.*, v.name, v.uuid, v.origin, v.period_ns, v.max_step_ns
  FROM raw_stage_energy e LEFT JOIN devices v ON v.device = e.device
  WHERE e.run_id = $run_id AND e.stage_id = $stage_id
), explained_windows AS (SELECT device, t0_ns, t1_ns FROM explained)
SELECT e.*, i.energy_j AS recomputed_j
FROM explained e LEFT JOIN integrate('explained_windows') i ON i.device = e.device
ORDER BY e.device
