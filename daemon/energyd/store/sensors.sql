-- Does the power integral agree with the hardware counter, as far as a daemon has read both side by side?
--
-- One row per GPU, over its last ten minutes of undisturbed sampling. Any gap ends that, bridged or not, since
-- what bridges a gap is the counter's own energy; so do a start of the daemon and a counter that goes back.

CREATE VIEW raw_agreement_reads AS
  WITH gap_end AS (SELECT device, max(t1_ns) AS t_ns FROM gaps GROUP BY device),
  since AS (
    SELECT v.device, greatest(v.t_ns, coalesce(g.t_ns, 0)) AS t_ns
    FROM devices v LEFT JOIN gap_end g USING (device)
  ),
  beside AS (
    SELECT c.device, c.t_ns, c.energy_mj, c.cum_uj, lag(c.t_ns) OVER earlier AS before_ns,
      lag(c.energy_mj) OVER earlier AS before_mj, lag(c.cum_uj) OVER earlier AS before_uj
    FROM counters c JOIN since s ON s.device = c.device AND c.t_ns >= s.t_ns
    WHERE c.cum_uj IS NOT NULL
    WINDOW earlier AS (PARTITION BY c.device ORDER BY c.t_ns)
  ),
  bounds AS (
    SELECT device, coalesce(max(t_ns) FILTER (energy_mj < before_mj), 0) AS reset_ns, max(t_ns) - 600_000_000_000 AS old_ns
    FROM beside GROUP BY device
  )
  -- The first read kept has nothing before it: what came before belongs to another segment.
  SELECT b.device, b.t_ns, b.energy_mj, b.cum_uj,
    CASE WHEN b.before_ns >= greatest(k.reset_ns, k.old_ns)
      THEN (b.cum_uj - b.before_uj) * 1e3 / nullif(b.t_ns - b.before_ns, 0) END AS mean_w
  FROM beside b JOIN bounds k ON k.device = b.device AND b.t_ns >= greatest(k.reset_ns, k.old_ns);

-- The counter moves in steps: at each end it is up to one period old. Two ages, each anything between 0 and the
-- period, differ by a standard deviation of period/√6; twice that (k = 2), at the dearest power seen between two
-- reads, is the doubt of the energy compared.
CREATE VIEW sensor_agreement AS
  WITH span AS (
    SELECT device, min(t_ns) AS t0_ns, max(t_ns) AS t1_ns, count(*) AS n_reads,
      (max(cum_uj) - min(cum_uj)) / 1e6 AS integral_j, (max(energy_mj) - min(energy_mj)) / 1e3 AS counter_j,
      max(mean_w) AS most_w
    FROM raw_agreement_reads GROUP BY device
  ),
  counter AS (SELECT device, state, period_ns, reason FROM sensors WHERE sensor = 'counter')
  SELECT /*lake v.host, */v.device, v.uuid, v.source, s.t0_ns, s.t1_ns, (s.t1_ns - s.t0_ns) / 1e9 AS seconds,
    coalesce(s.n_reads, 0) AS n_reads, s.integral_j, s.counter_j,
    s.integral_j / nullif(s.counter_j, 0) - 1 AS agreement,
    2 / sqrt(6) * c.period_ns / 1e9 * s.most_w / nullif(s.counter_j, 0) AS u_agreement,
    CASE WHEN s.counter_j > 0 AND c.period_ns IS NULL THEN 'how often the counter steps is not known, and so not the doubt'
      WHEN s.counter_j > 0 THEN NULL
      WHEN c.state <> 'answers' THEN 'no counter: ' || coalesce(c.reason, c.state)
      WHEN coalesce(s.n_reads, 0) < 2 THEN 'fewer than two counter reads since the last start or gap'
      ELSE 'the counter did not move' END AS reason
  FROM devices v LEFT JOIN span s USING (device) LEFT JOIN counter c USING (device)
  WHERE v.domain = 'gpu';
