-- Which gaps lie in one stage?
SELECT g.device, g.t0_ns, g.t1_ns, g.reason, g.bridged_uj,
  least(g.t1_ns, e.t1_ns) - greatest(g.t0_ns, e.t0_ns) AS inside_ns
FROM stage_energy e JOIN gaps g ON g.device = e.device AND g.t0_ns < e.t1_ns AND g.t1_ns > e.t0_ns
WHERE e.run_id = $run_id AND e.stage_id = $stage_id
ORDER BY g.device, g.t0_ns
