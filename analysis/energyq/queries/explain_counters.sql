-- What did the hardware counter say inside one stage, first and last?
SELECT c.device, count(*) AS n_reads, min(c.t_ns) AS first_ns, arg_min(c.energy_mj, c.t_ns) AS first_mj,
  arg_min(c.cum_uj, c.t_ns) AS first_cum_uj, max(c.t_ns) AS last_ns, arg_max(c.energy_mj, c.t_ns) AS last_mj,
  arg_max(c.cum_uj, c.t_ns) AS last_cum_uj
FROM stage_energy e JOIN counters c ON c.device = e.device AND c.t_ns BETWEEN e.t0_ns AND e.t1_ns
WHERE e.run_id = $run_id AND e.stage_id = $stage_id
GROUP BY c.device
