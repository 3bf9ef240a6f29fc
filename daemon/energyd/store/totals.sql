-- What did a stage, and what did a run, cost? One row each, domains side by side.
--
-- total = gpu + cpu; dram is shown apart. A domain that the machine lacks is left out and named; one that is
-- there but unknown makes the total NULL, with the reason. Nothing unknown ever counts as 0.
--
-- Doubt (k = 2, as in stage_energy). u_total² = u_random² + u_systematic². Random parts are independent: they
-- add as the root of the sum of squares. A systematic part is common to all energies of one device, so that
-- pieces of one device add theirs linearly. Boards of one model are off independently of each other (each
-- has its own shunts and gain), so GPUs add theirs as a root of squares; CPU packages share one power model
-- or one estimate, so they add theirs linearly. One needed doubt that is NULL makes the sum's doubt NULL.

-- Root of the sum of squares over a group; NULL where one is.
CREATE MACRO raw_rss(u) AS CASE WHEN count(*) = count(u) THEN sqrt(sum(u * u)) END;
-- Sum over a group; NULL where one is.
CREATE MACRO raw_sum(x) AS CASE WHEN count(*) = count(x) THEN sum(x) END;
-- Each word of a group once, in order; NULL without any. As string_agg(DISTINCT …), which hashes the group anew.
CREATE MACRO raw_words(word, sep) AS nullif(array_to_string(list_sort(list_distinct(list(word))), sep), '');
-- The part of a doubt that is common to all energies of a device. Rounding may leave a hair below 0.
CREATE MACRO raw_systematic(u_random, u_total) AS sqrt(greatest(u_total * u_total - u_random * u_random, 0));

-- lines: run_id, stage_id ('' for the run itself), at_ns (its end), in a lake host, device, domain, energy_j, u_random_j, u_total_j,
-- coverage, source, flags, reason; one row per device, or one with device NULL where nothing is charged.
CREATE MACRO raw_bill(lines) AS TABLE
  WITH line AS (FROM query_table(lines)),
  owner AS (
    SELECT run_id, stage_id, at_ns/*lake , host*/, min(coverage) AS coverage, flatten(list(flags)) AS flags
    FROM line GROUP BY run_id, stage_id, at_ns/*lake , host*/
  ),
  by_domain AS (
    SELECT run_id, stage_id, /*lake host, */domain, count(*) AS n,
      raw_sum(energy_j) AS j, raw_rss(u_random_j) AS random_j,
      CASE WHEN domain = 'gpu' THEN raw_rss(raw_systematic(u_random_j, u_total_j))
        ELSE raw_sum(raw_systematic(u_random_j, u_total_j)) END AS systematic_j,
      coalesce(sum(energy_j) FILTER (list_contains(flags, 'estimated')), 0) AS estimated_j,
      raw_words(source, '+') AS source,
      CASE WHEN bool_or(list_contains(flags, 'estimated')) THEN 'estimated'
        WHEN bool_or(list_contains(flags, 'replayed')) THEN 'replayed'
        WHEN bool_or(list_contains(flags, 'simulated')) THEN 'simulated' ELSE 'measured' END AS origin,
      raw_words(CASE WHEN energy_j IS NULL THEN reason END, ', ') AS reason
    FROM line WHERE device IS NOT NULL GROUP BY run_id, stage_id, /*lake host, */domain
  ),
  -- The machine as it was at the owner's end, not as it is today.
  first_state AS (
    SELECT /*lake host, */domain, arg_min(state, t_ns) AS state, arg_min(reason, t_ns) AS reason
    FROM raw_domain_states GROUP BY /*lake host, */domain
  ),
  asked AS (SELECT *, unnest(['gpu', 'cpu', 'dram']) AS domain, unnest([1, 2, 3]) AS place FROM owner),
  seen AS (
    SELECT a.run_id, a.stage_id, /*lake a.host, */a.domain, a.place, a.coverage, a.flags, coalesce(s.state, f.state, 'absent') AS state,
      CASE WHEN s.state IS NULL THEN f.reason ELSE s.reason END AS state_reason
    FROM asked a
    ASOF LEFT JOIN raw_domain_states s ON /*lake s.host = a.host AND */s.domain = a.domain AND s.t_ns <= a.at_ns
    LEFT JOIN first_state f ON /*lake f.host = a.host AND */f.domain = a.domain
  ),
  standing AS (
    SELECT s.*, d.j, d.random_j, d.systematic_j, d.estimated_j, d.source, d.origin, d.n,
      CASE WHEN d.j IS NOT NULL THEN 'known' WHEN d.n IS NOT NULL THEN 'unknown'
        WHEN s.state = 'unreadable' THEN 'unreadable' WHEN s.state = 'absent' THEN 'absent'
        ELSE 'not charged' END AS standing,
      coalesce(d.reason, s.state_reason) AS why
    FROM seen s LEFT JOIN by_domain d
      ON d.run_id = s.run_id AND d.stage_id = s.stage_id AND d.domain = s.domain/*lake  AND d.host = s.host*/
  ),
  bill AS (
    SELECT run_id, stage_id,
      CASE WHEN bool_and(j IS NOT NULL) FILTER (domain = 'gpu' AND n > 0) THEN sum(j) FILTER (domain = 'gpu') END AS gpu_j,
      CASE WHEN bool_and(j IS NOT NULL) FILTER (domain = 'cpu' AND n > 0) THEN sum(j) FILTER (domain = 'cpu') END AS cpu_j,
      CASE WHEN bool_and(j IS NOT NULL) FILTER (domain = 'dram' AND n > 0) THEN sum(j) FILTER (domain = 'dram') END AS dram_j,
      bool_or(standing IN ('unknown', 'unreadable') AND domain <> 'dram') AS is_unknown,
      bool_and(random_j IS NOT NULL) FILTER (domain <> 'dram' AND n IS NOT NULL) AS has_random,
      bool_and(systematic_j IS NOT NULL) FILTER (domain <> 'dram' AND n IS NOT NULL) AS has_systematic,
      sum(random_j ** 2) FILTER (domain <> 'dram') AS random_j2,
      sum(systematic_j ** 2) FILTER (domain <> 'dram') AS systematic_j2,
      sum(j) FILTER (domain <> 'dram') AS known_j, sum(estimated_j) FILTER (domain <> 'dram') AS known_estimated_j,
      /*lake raw_once(*/string_agg(domain || ' ' || CASE WHEN n IS NULL THEN 'unreadable' WHEN origin = 'measured' THEN source
        ELSE coalesce(source, '?') || ' (' || origin || ')' END, ', ' ORDER BY place)
        FILTER (n IS NOT NULL OR standing = 'unreadable')/*lake , ', ')*/ AS sources,
      /*lake raw_once(*/string_agg(domain || ' ' || CASE WHEN n IS NULL THEN standing ELSE origin END, ', ' ORDER BY place)/*lake , ', ')*/
        AS domains,
      /*lake raw_once(*/string_agg(domain || ': ' || CASE WHEN standing = 'unreadable' THEN 'unreadable, ' ELSE '' END
        || coalesce(why, 'no reason given'), '; ' ORDER BY place)
        FILTER (standing IN ('unknown', 'unreadable'))/*lake , '; ')*/ AS reason,
      min(coverage) AS coverage, list_sort(list_distinct(flatten(list(flags)))) AS flags
    FROM standing GROUP BY run_id, stage_id
  )
  SELECT b.run_id, b.stage_id, b.gpu_j, b.cpu_j, b.dram_j,
    CASE WHEN NOT b.is_unknown THEN b.known_j END AS total_j,
    CASE WHEN NOT b.is_unknown AND b.has_random THEN sqrt(b.random_j2) END AS u_random_j,
    CASE WHEN NOT b.is_unknown AND b.has_random AND b.has_systematic
      THEN sqrt(b.random_j2 + b.systematic_j2) END AS u_total_j,
    CASE WHEN NOT b.is_unknown AND b.known_j IS NOT NULL THEN b.known_estimated_j END AS estimated_j,
    CASE WHEN NOT b.is_unknown THEN b.known_estimated_j / nullif(b.known_j, 0) END AS estimated_share,
    b.coverage, b.sources, b.domains, b.flags,
    coalesce(b.reason, CASE WHEN b.known_j IS NULL THEN 'nothing to add up: ' || b.domains END) AS reason
  FROM bill b;

-- units: run_id, stage_id, unit, total_n. All counts as a map, and the one that J/token divides by.
CREATE MACRO raw_tokens(units) AS TABLE
  SELECT run_id, stage_id, map_from_entries(list((unit, total_n) ORDER BY unit)) AS counts,
    first(unit ORDER BY coalesce(list_position(['label', 'generated', 'nonpad', 'positions'], unit), 9), unit)
      AS token_unit
  FROM query_table(units) GROUP BY run_id, stage_id;

-- One run's stages (NULL: all). `energyq stages` asks this way, so that a run costs the same in any store.
CREATE MACRO raw_stage_totals(of_run) AS TABLE
  WITH run_stages AS MATERIALIZED (FROM raw_stages WHERE of_run IS NULL OR run_id = of_run),
  run_energies AS (FROM raw_energies WHERE of_run IS NULL OR run_id = of_run),
  run_kin AS MATERIALIZED (FROM raw_kin_of('run_stages')),
  run_counts AS (FROM raw_counts_of('run_stages', 'run_kin')),
  stage_lines AS (
    SELECT s.run_id, s.stage_id, coalesce(s.t1_ns, 9223372036854775807) AS at_ns, /*lake s.host, */e.device, e.domain, e.energy_j,
      e.u_random_j, e.u_total_j, e.coverage, e.source, coalesce(e.flags, s.flags, []::VARCHAR[]) AS flags, e.reason
    FROM run_stages s
    LEFT JOIN raw_energy_of('run_stages', 'run_energies') e ON e.run_id = s.run_id AND e.stage_id = s.stage_id
  )
  SELECT /*lake s.host, */s.run_id, r.name AS run, s.stage_id, s.parent_id, s.name AS stage, s.depth, s.path, s.status,
    s.t0_ns, s.t1_ns, s.seconds, b.gpu_j, b.cpu_j, b.dram_j, b.total_j, b.u_random_j, b.u_total_j, b.estimated_j,
    b.estimated_share,
    b.total_j / nullif(s.seconds, 0) AS mean_w, t.counts, t.counts[t.token_unit] AS tokens, t.token_unit,
    b.total_j / nullif(t.counts[t.token_unit], 0) AS j_per_token,
    b.coverage, b.sources, b.domains, b.flags, b.reason
  FROM raw_placed('run_stages', 'run_kin') s
  LEFT JOIN runs r ON r.run_id = s.run_id
  LEFT JOIN raw_bill('stage_lines') b ON b.run_id = s.run_id AND b.stage_id = s.stage_id
  LEFT JOIN raw_tokens('run_counts') t ON t.run_id = s.run_id AND t.stage_id = s.stage_id;
CREATE VIEW stage_totals AS FROM raw_stage_totals(NULL);

-- A run is, on each device, the union of the stages that are within no other on that device: a rank may name a
-- GPU that the stage around it does not. Where they overlap (ranks of one machine share its CPU), a stage that
-- covers the whole piece stands for it; else the piece is integrated from raw samples.
-- The doubt of such a piece: its edges and its time are among those of its stages, so the root of the sum of
-- their squares is no less than its random part; the systematic part is the largest share of any of them.
CREATE VIEW raw_top_stages AS SELECT run_id, stage_id FROM raw_kin GROUP BY ALL HAVING max(up) = 0;
CREATE VIEW raw_charged AS
  SELECT run_id, stage_id, unnest(devices) AS device FROM raw_stages
  UNION SELECT run_id, stage_id, device FROM raw_energies;
CREATE VIEW raw_top_energies AS
  WITH charged AS MATERIALIZED (FROM raw_charged),
  -- Most are settled by a look at their parent; who is above that is asked of the few that are left.
  parentless AS (
    SELECT c.run_id, c.stage_id, c.device
    FROM charged c JOIN raw_stages s ON s.run_id = c.run_id AND s.stage_id = c.stage_id
    ANTI JOIN charged p ON p.run_id = s.run_id AND p.stage_id = s.parent_id AND p.device = c.device
  )
  SELECT l.run_id, l.stage_id, l.device
  FROM parentless l JOIN raw_kin k USING (run_id, stage_id)
  LEFT JOIN charged a ON a.run_id = k.run_id AND a.device = l.device
    -- As a key, not as `k.up > 0`, which DuckDB 1.5 takes for a reason to try every pair (77 k charged stages: 5.8 s, not 0.1).
    AND a.stage_id = CASE WHEN k.up > 0 THEN k.ancestor_id END
  GROUP BY ALL HAVING count(a.device) = 0;
CREATE VIEW raw_run_pieces AS
  WITH top AS (
    SELECT e.* FROM raw_stage_energy e
    JOIN raw_top_energies k USING (run_id, stage_id, device)
  ),
  marked AS (
    SELECT *, coalesce(t0_ns >= max(coalesce(t1_ns, 9223372036854775807)) OVER (PARTITION BY run_id, device
      ORDER BY t0_ns, stage_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true) AS begins_piece
    FROM top
  ),
  numbered AS (
    SELECT *, count(*) FILTER (begins_piece) OVER (PARTITION BY run_id, device ORDER BY t0_ns, stage_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS piece
    FROM marked
  ),
  bounded AS (
    SELECT *, min(t0_ns) OVER (PARTITION BY run_id, device, piece) AS a_ns,
      max(coalesce(t1_ns, 9223372036854775807)) OVER (PARTITION BY run_id, device, piece) AS b_ns
    FROM numbered
  )
  SELECT run_id, device, domain, a_ns AS t0_ns, nullif(b_ns, 9223372036854775807) AS t1_ns, count(*) AS n_stages,
    bool_or(t0_ns = a_ns AND coalesce(t1_ns, 9223372036854775807) = b_ns) AS has_cover,
    max(energy_j) FILTER (t0_ns = a_ns AND t1_ns = b_ns) AS cover_j,
    max(u_random_j) FILTER (t0_ns = a_ns AND t1_ns = b_ns) AS cover_random_j,
    max(u_total_j) FILTER (t0_ns = a_ns AND t1_ns = b_ns) AS cover_total_j,
    raw_rss(u_random_j) AS random_j, raw_sum(raw_systematic(u_random_j, u_total_j)) AS systematic_j,
    max(raw_systematic(u_random_j, u_total_j) / nullif(energy_j, 0)) AS systematic_share,
    min(coverage) AS coverage,
    string_agg(DISTINCT source, '+' ORDER BY source) AS source,
    list_sort(list_distinct(flatten(list(flags)))) AS flags,
    string_agg(DISTINCT reason, ', ' ORDER BY reason) AS reason
  FROM bounded GROUP BY ALL;
CREATE VIEW raw_run_lines AS
  WITH pieces AS MATERIALIZED (FROM raw_run_pieces),  -- or they would be worked out once for each that names them
  uncovered AS (
    SELECT run_id, device, domain, t0_ns, t1_ns, random_j, systematic_j, systematic_share, source, flags, reason
    FROM pieces WHERE NOT has_cover
  ),
  piece AS (
    SELECT run_id, device, domain, cover_j AS energy_j, cover_random_j AS random_j,
      raw_systematic(cover_random_j, cover_total_j) AS systematic_j, coverage, source, flags, reason
    FROM pieces WHERE has_cover
    UNION ALL
    SELECT run_id, device, domain, energy_j, random_j,
      CASE WHEN systematic_j IS NOT NULL THEN least(systematic_j, coalesce(systematic_share * energy_j, systematic_j)) END,
      coverage, source, flags,
      CASE WHEN energy_j IS NULL THEN coalesce(reason, 'overlapping stages cannot be integrated: no raw samples') END
    FROM integrate('uncovered')
  ),
  per_device AS (
    SELECT run_id, /*lake raw_host_of(device) AS host, */device, domain, raw_sum(energy_j) AS energy_j, raw_rss(random_j) AS u_random_j,
      sqrt(raw_rss(random_j) ** 2 + raw_sum(systematic_j) ** 2) AS u_total_j, min(coverage) AS coverage, string_agg(DISTINCT source, '+' ORDER BY source) AS source,
      list_sort(list_distinct(flatten(list(flags)))) AS flags,
      string_agg(DISTINCT reason, ', ' ORDER BY reason) AS reason
    FROM piece GROUP BY ALL
  )
  SELECT r.run_id, '' AS stage_id, coalesce(r.t1_ns, 9223372036854775807) AS at_ns,
    /*lake coalesce(p.host, r.host) AS host, */p.device, p.domain, p.energy_j,
    p.u_random_j, p.u_total_j, p.coverage, p.source, coalesce(p.flags, []::VARCHAR[]) AS flags, p.reason
  FROM runs r LEFT JOIN per_device p ON p.run_id = r.run_id;
CREATE VIEW raw_run_counts AS
  SELECT run_id, '' AS stage_id, unit, sum(n)::BIGINT AS total_n FROM raw_own_counts GROUP BY ALL;
-- Seconds in which at least one top stage ran, however many did.
CREATE VIEW raw_run_staged AS
  WITH whole AS (
    SELECT run_id, t0_ns, t1_ns FROM raw_stages JOIN raw_top_stages USING (run_id, stage_id) WHERE t1_ns IS NOT NULL
  ),
  marked AS (
    SELECT *, coalesce(max(t1_ns) OVER (PARTITION BY run_id ORDER BY t0_ns, t1_ns
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), t0_ns) AS busy_until_ns
    FROM whole
  )
  SELECT run_id, sum(greatest(t1_ns - greatest(t0_ns, busy_until_ns), 0)) / 1e9 AS staged_s FROM marked GROUP BY run_id;

CREATE VIEW run_totals AS
  SELECT /*lake r.host, (SELECT list_sort(list(DISTINCT s.host)) FROM raw_stages s WHERE s.run_id = r.run_id) AS hosts, */
    r.run_id, r.name AS run, r.status, r.t0_ns, r.t1_ns, r.seconds, g.staged_s,
    (SELECT count(*) FROM raw_stages s WHERE s.run_id = r.run_id) AS n_stages,
    b.gpu_j, b.cpu_j, b.dram_j, b.total_j, b.u_random_j, b.u_total_j, b.estimated_j, b.estimated_share,
    b.total_j / nullif(g.staged_s, 0) AS mean_w,
    t.counts, t.counts[t.token_unit] AS tokens, t.token_unit,
    b.total_j / nullif(t.counts[t.token_unit], 0) AS j_per_token,
    b.coverage, b.sources, b.domains, b.flags, b.reason
  FROM runs r
  LEFT JOIN raw_run_staged g ON g.run_id = r.run_id
  LEFT JOIN raw_bill('raw_run_lines') b ON b.run_id = r.run_id
  LEFT JOIN raw_tokens('raw_run_counts') t ON t.run_id = r.run_id;
