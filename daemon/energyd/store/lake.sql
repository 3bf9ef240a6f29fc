-- What can be asked of a lake alone? Who ships to it, and what a run took on each of its hosts. One that totals.sql has, too, takes its place.

-- A stage is no part of one on another host: that one is charged other devices.
CREATE VIEW raw_top_stages AS
  SELECT k.run_id, k.stage_id
  FROM raw_kin k
  JOIN raw_stages s ON s.run_id = k.run_id AND s.stage_id = k.stage_id
  JOIN raw_stages a ON a.run_id = k.run_id AND a.stage_id = k.ancestor_id
  WHERE a.host = s.host GROUP BY ALL HAVING max(k.up) = 0;

CREATE VIEW hosts AS
  SELECT h.host, coalesce(h.hostname, b.hostname) AS hostname, coalesce(h.version, b.version) AS version,
    coalesce(d.n, 0) AS n_devices, h.shipped_until_ns, h.clock_s, h.clock_doubt_s
  FROM raw_hosts h
  LEFT JOIN (SELECT host, arg_max(hostname, t_ns) AS hostname, arg_max(version, t_ns) AS version
    FROM raw_boots GROUP BY host) b USING (host)
  LEFT JOIN (SELECT host, count(*) AS n FROM devices GROUP BY host) d USING (host);

-- The run's lines once more, as one bill a host: `stage_id` is what raw_bill adds up by.
CREATE VIEW raw_run_host_lines AS SELECT * REPLACE (host AS stage_id) FROM raw_run_lines;
CREATE VIEW run_hosts AS
  WITH there AS (
    SELECT run_id, host, count(*) AS n_stages, min(t0_ns) AS t0_ns, max(t1_ns) AS t1_ns FROM raw_stages GROUP BY ALL
  ),
  units AS (
    SELECT s.run_id, s.host, o.unit, sum(o.n)::BIGINT AS n
    FROM raw_own_counts o JOIN raw_stages s USING (run_id, stage_id) GROUP BY ALL
  ),
  counted AS (SELECT run_id, host, map_from_entries(list((unit, n) ORDER BY unit)) AS counts FROM units GROUP BY ALL)
  SELECT t.host, t.run_id, r.name AS run, h.hostname, t.n_stages, t.t0_ns, t.t1_ns, c.counts,
    b.gpu_j, b.cpu_j, b.dram_j, b.total_j, b.u_random_j, b.u_total_j, b.domains, b.reason, h.clock_s, h.clock_doubt_s
  FROM there t
  LEFT JOIN runs r ON r.run_id = t.run_id
  LEFT JOIN hosts h ON h.host = t.host
  LEFT JOIN counted c ON c.run_id = t.run_id AND c.host = t.host
  LEFT JOIN raw_bill('raw_run_host_lines') b ON b.run_id = t.run_id AND b.stage_id = t.host;
