-- How much energy did a device take between two instants, from raw samples?
--
-- The same arithmetic as energyd.energy, so the same microjoule: power is linear between samples, and a
-- step's trapezoid is scaled to the stored step. Edges find their samples by hash join on the second, since
-- ASOF joins sort everything (48 M rows, 1,000 stages: 11 s by ASOF, 0.8 s by second).

-- The running integral at t between the samples a and b, µJ. Half-even rounding, as in Python.
CREATE MACRO edge_uj(t, ta, pa, ca, tb, pb, cb) AS
  CASE
    WHEN t = ta THEN ca
    WHEN (pa::HUGEINT + pb) * (tb - ta) <= 0
      THEN ca + round_even((cb - ca)::DOUBLE * (t - ta) / (tb - ta), 0)::BIGINT
    ELSE ca + round_even(
      (cb - ca)::DOUBLE
      * ((2::HUGEINT * pa * (t - ta))::DOUBLE + ((pb - pa)::HUGEINT * (t - ta) * (t - ta))::DOUBLE / (tb - ta))
      / ((pa::HUGEINT + pb) * (tb - ta))::DOUBLE, 0)::BIGINT
  END;

-- tbl names a table with columns device, t_ns: each instant with the samples around it and its integral.
-- b is the first sample after t, or NULL; inside a gap both may be hours away and are found by the gap's ends.
CREATE MACRO instants(tbl) AS TABLE
  WITH asked_instants AS (SELECT DISTINCT device::UTINYINT AS device, t_ns::BIGINT AS t_ns FROM query_table(tbl)),
  -- Whole seconds in which an ordinary step may begin or end: its allowed length, and the one it touches. That
  -- holds for thinned samples too: of each second that had samples its last one is kept.
  reached AS (
    SELECT i.device, i.t_ns, coalesce(max(d.max_step_ns) // 1000000000, 3) + 1 AS reach_s
    FROM asked_instants i LEFT JOIN raw_devices d ON d.device = i.device
    GROUP BY ALL
  ),
  seconds_near AS (
    SELECT device, t_ns, unnest(range(t_ns // 1000000000 - reach_s, t_ns // 1000000000 + reach_s + 1)) AS sec
    FROM reached
  ),
  in_gap AS (
    SELECT i.device, i.t_ns, unnest([g.t0_ns, g.t1_ns]) AS end_ns
    FROM asked_instants i JOIN gaps g ON g.device = i.device AND g.t0_ns < i.t_ns AND g.t1_ns > i.t_ns
  ),
  candidates AS (
    SELECT n.device, n.t_ns, s.t_ns AS s_ns, s.power_mw, s.cum_uj
    FROM seconds_near n JOIN samples s ON s.device = n.device AND s.t_ns // 1000000000 = n.sec
    WHERE s.t_ns >= (SELECT min(t_ns) - (max(reach_s) + 1) * 1000000000 FROM reached)  -- lets Parquet skip
      AND s.t_ns <= (SELECT max(t_ns) + (max(reach_s) + 1) * 1000000000 FROM reached)
    UNION ALL
    SELECT g.device, g.t_ns, s.t_ns, s.power_mw, s.cum_uj
    FROM in_gap g JOIN samples s ON s.device = g.device AND s.t_ns = g.end_ns
  ),
  around AS (
    SELECT device, t_ns,
      max(s_ns) FILTER (s_ns <= t_ns) AS a_ns, arg_max(power_mw, s_ns) FILTER (s_ns <= t_ns) AS a_mw,
      arg_max(cum_uj, s_ns) FILTER (s_ns <= t_ns) AS a_uj,
      min(s_ns) FILTER (s_ns > t_ns) AS b_ns, arg_min(power_mw, s_ns) FILTER (s_ns > t_ns) AS b_mw,
      arg_min(cum_uj, s_ns) FILTER (s_ns > t_ns) AS b_uj
    FROM candidates GROUP BY device, t_ns
  )
  SELECT *, edge_uj(t_ns, a_ns, a_mw, a_uj, b_ns, b_mw, b_uj) AS e_uj FROM around;

-- tbl names a table or view with columns device, t0_ns, t1_ns: all its columns, energy_j and coverage.
-- NULL: a gap that nothing bridges lies in the window, or it begins before or ends after the samples.
CREATE MACRO integrate(tbl) AS TABLE
  WITH windows_asked AS (SELECT row_number() OVER () AS window_no, * FROM query_table(tbl)),
  window_edges AS (SELECT device, t0_ns AS t_ns FROM windows_asked UNION SELECT device, t1_ns FROM windows_asked),
  edges_found AS MATERIALIZED (SELECT device, t_ns, e_uj FROM instants('window_edges')),
  gaps_inside AS (
    SELECT w.window_no, bool_or(g.bridged_uj IS NULL) AS has_hole,
      sum(least(g.t1_ns, w.t1_ns) - greatest(g.t0_ns, w.t0_ns)) AS gap_ns
    FROM windows_asked w
    JOIN gaps g ON g.device = w.device AND g.t0_ns < w.t1_ns AND g.t1_ns > w.t0_ns
    GROUP BY w.window_no
  )
  SELECT w.* EXCLUDE (window_no),
    CASE WHEN w.t1_ns >= w.t0_ns AND NOT coalesce(h.has_hole, false) THEN (b.e_uj - a.e_uj) / 1e6 END AS energy_j,
    CASE WHEN w.t1_ns > w.t0_ns AND a.e_uj IS NOT NULL AND b.e_uj IS NOT NULL
      THEN 1 - coalesce(h.gap_ns, 0) / (w.t1_ns - w.t0_ns) END AS coverage
  FROM windows_asked w
  LEFT JOIN edges_found a ON a.device = w.device AND a.t_ns = w.t0_ns
  LEFT JOIN edges_found b ON b.device = w.device AND b.t_ns = w.t1_ns
  LEFT JOIN gaps_inside h ON h.window_no = w.window_no
  ORDER BY w.window_no;

-- One interval of one device, J. For many intervals integrate() is the faster one.
CREATE MACRO energy_j(device, t0_ns, t1_ns) AS (
  WITH one_window AS (SELECT device AS device, t0_ns AS t0_ns, t1_ns AS t1_ns)
  SELECT energy_j FROM integrate('one_window')
);
