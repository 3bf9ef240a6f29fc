-- Does every stored stage energy follow from the raw samples?
-- Where the counter's figure was kept, its companion, the power integral, is checked.
-- Both ways round each edge to a microjoule, so 2 µJ is rounding and anything more is not.
WITH stored AS (
  SELECT run_id, stage_id, stage, device, domain, t0_ns, t1_ns,
    CASE WHEN method = 'counter' THEN integral_j ELSE energy_j END AS stored_j
  FROM stage_energy
  WHERE ($run_id::VARCHAR IS NULL OR run_id = $run_id) AND NOT list_has_any(flags, ['open', 'pending', 'store_damaged'])
)
SELECT run_id, stage_id, stage, device, domain, stored_j, energy_j AS recomputed_j,
  round((energy_j - stored_j) * 1e6)::BIGINT AS difference_uj,
  CASE
    WHEN stored_j IS NULL AND energy_j IS NULL THEN 'same'  -- both say that it is unknown
    WHEN stored_j IS NULL THEN 'not stored'
    WHEN abs(difference_uj) <= 2 THEN 'same'
    WHEN energy_j IS NULL AND coverage IS NULL OR EXISTS (  -- too old, or lost with a damaged file
      FROM gaps g WHERE g.device = i.device AND g.reason = 'store_damaged' AND g.t0_ns < i.t1_ns AND g.t1_ns > i.t0_ns
    ) THEN 'raw gone'
    ELSE 'differs'
  END AS verdict
FROM integrate('stored') i ORDER BY run_id, t0_ns, stage_id, device
