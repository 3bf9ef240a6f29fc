-- How might the energy of a shared GPU be split? An estimate, which no total uses.
--
-- By the share of time in which the kernels of a stage's own process ran. That is known to be inaccurate:
-- idle power and the power of the memory are not proportional to it, and a kernel that fills the GPU counts
-- as much as one that uses a single multiprocessor. NULL where the driver tells no utilisation (MIG, virtual
-- GPUs), or none of the stage's own process, whose work may run in processes that it started.

CREATE VIEW energy_split_estimate AS
  WITH shared AS (
    SELECT e.run_id, e.stage_id, e.device, s.pid, e.t0_ns, e.t1_ns, e.energy_j
    FROM stage_energy e JOIN raw_stages s ON s.run_id = e.run_id AND s.stage_id = e.stage_id
    WHERE list_contains(e.flags, 'shared_gpu')
  ),
  busy AS (
    SELECT h.run_id, h.stage_id, h.device, h.pid, h.energy_j, count(u.pid) AS n,
      sum(u.sm_percent) FILTER (u.pid = h.pid) / nullif(sum(u.sm_percent), 0) AS sm_share
    FROM shared h LEFT JOIN shares u ON u.device = h.device AND u.t_ns >= h.t0_ns AND u.t_ns <= h.t1_ns
    GROUP BY ALL
  )
  SELECT /*lake raw_host_of(device) AS host, */run_id, stage_id, device, pid, sm_share, energy_j * sm_share AS estimate_j, n FROM busy;
