-- What do those of lake.sql hold?

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
