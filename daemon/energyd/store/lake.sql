-- What can be asked of a lake alone? Who ships to it, and what a run took on each of its hosts. Run after the views.

-- A stage is no part of one on another host: that one is charged other devices.
CREATE OR REPLACE VIEW raw_top_stages AS
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

COMMENT ON VIEW hosts IS 'Who ships to this lake';
COMMENT ON COLUMN hosts.host IS 'id of its store';
COMMENT ON COLUMN hosts.hostname IS 'name of the machine, for people';
COMMENT ON COLUMN hosts.version IS 'energyd release that shipped last';
COMMENT ON COLUMN hosts.n_devices IS 'number of its devices';
COMMENT ON COLUMN hosts.shipped_until_ns IS 'ns, end of the last hour shipped; NULL: it has not said';
COMMENT ON COLUMN hosts.clock_s IS 's by which its wall clock was ahead of the lake''s when it shipped last; NULL: it has not said';
COMMENT ON COLUMN hosts.clock_doubt_s IS 's by which clock_s may be off';
COMMENT ON VIEW run_hosts IS 'What each run took on each of its hosts, by that host''s own clock';
COMMENT ON COLUMN run_hosts.host IS 'id of the host''s store';
COMMENT ON COLUMN run_hosts.run_id IS 'run';
COMMENT ON COLUMN run_hosts.run IS 'name given by the program';
COMMENT ON COLUMN run_hosts.hostname IS 'name of the machine, for people';
COMMENT ON COLUMN run_hosts.n_stages IS 'number of the run''s stages there';
COMMENT ON COLUMN run_hosts.t0_ns IS 'ns, begin of its first stage there';
COMMENT ON COLUMN run_hosts.t1_ns IS 'ns, end of its last stage there; NULL: all are open';
COMMENT ON COLUMN run_hosts.counts IS 'units counted there: {"label": 4096}';
COMMENT ON COLUMN run_hosts.gpu_j IS 'J of its GPUs';
COMMENT ON COLUMN run_hosts.cpu_j IS 'J of its CPUs';
COMMENT ON COLUMN run_hosts.dram_j IS 'J of its memory, in no total';
COMMENT ON COLUMN run_hosts.total_j IS 'J, gpu + cpu; NULL: see reason';
COMMENT ON COLUMN run_hosts.u_random_j IS 'J, k = 2, random part of the doubt; NULL: not stated';
COMMENT ON COLUMN run_hosts.u_total_j IS 'J, k = 2, whole doubt; NULL: not stated';
COMMENT ON COLUMN run_hosts.domains IS 'how each domain of that machine stands';
COMMENT ON COLUMN run_hosts.reason IS 'why total_j is NULL';
COMMENT ON COLUMN run_hosts.clock_s IS 's by which that host''s wall clock was ahead of the lake''s';
COMMENT ON COLUMN run_hosts.clock_doubt_s IS 's by which clock_s may be off';
