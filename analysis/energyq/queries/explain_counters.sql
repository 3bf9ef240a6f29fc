-- Which reads of the hardware counter is one stage's counter figure made of? The last at or before each edge.
WITH e AS (
  SELECT s.device, s.t0_ns, s.t1_ns, coalesce(max(c.t_ns), s.t0_ns) AS from_ns
  FROM stage_energy s LEFT JOIN counters c ON c.device = s.device AND c.t_ns <= s.t0_ns AND c.cum_uj IS NOT NULL
  WHERE s.run_id = $run_id AND s.stage_id = $stage_id
  GROUP BY s.device, s.t0_ns, s.t1_ns
)
SELECT c.device, count(*) FILTER (c.t_ns >= e.t0_ns) AS n_reads,
  min(c.t_ns) AS first_ns, arg_min(c.energy_mj, c.t_ns) AS first_mj, arg_min(c.cum_uj, c.t_ns) AS first_cum_uj,
  max(c.t_ns) AS last_ns, arg_max(c.energy_mj, c.t_ns) AS last_mj, arg_max(c.cum_uj, c.t_ns) AS last_cum_uj
FROM e JOIN counters c ON c.device = e.device AND c.t_ns BETWEEN e.from_ns AND e.t1_ns
GROUP BY c.device HAVING n_reads > 0
