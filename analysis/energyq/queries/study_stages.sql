-- What did each top stage of these runs cost, and each of these stages wherever it ran?
-- A stage may be charged for a device that no stage around it names (a rank's GPU): a line more of its top stage,
-- which is its owner.
SELECT run_id, stage_id, owner_id, stage, depth, status, total_j, gpu_j, cpu_j, u_random_j, estimated_j, tokens,
  token_unit, coverage, reason
FROM (
  SELECT t0_ns, run_id, stage_id, stage_id AS owner_id, stage, depth, status, total_j, gpu_j, cpu_j, u_random_j,
    estimated_j, tokens, token_unit, coverage, reason
  FROM stage_totals
  WHERE (depth = 0 AND list_contains($runs::VARCHAR[], run_id)) OR list_contains($stages::VARCHAR[], stage_id)
  UNION ALL
  SELECT e.t0_ns, e.run_id, e.stage_id || ' on ' || e.device, k.top_id, a.name, 0, a.status, e.energy_j,
    CASE WHEN e.domain = 'gpu' THEN e.energy_j END, CASE WHEN e.domain = 'cpu' THEN e.energy_j END, e.u_random_j,
    CASE WHEN list_contains(e.flags, 'estimated') THEN e.energy_j ELSE 0 END, NULL, NULL, e.coverage, e.reason
  FROM raw_top_energies
  JOIN stage_energy e USING (run_id, stage_id, device)
  JOIN (SELECT run_id, stage_id, arg_max(ancestor_id, up) AS top_id, max(up) AS depth FROM raw_kin GROUP BY ALL) k
    USING (run_id, stage_id)
  JOIN stages a ON a.run_id = e.run_id AND a.stage_id = k.top_id
  WHERE k.depth > 0 AND e.domain <> 'dram'
    AND (list_contains($runs::VARCHAR[], e.run_id) OR list_contains($stages::VARCHAR[], k.top_id))
)
ORDER BY t0_ns, stage_id
