-- Which samples surround the edges of one stage, and what is the running integral there?
WITH explained_edges AS (
  SELECT device, unnest([t0_ns, t1_ns]) AS t_ns FROM stage_energy WHERE run_id = $run_id AND stage_id = $stage_id
)
FROM instants('explained_edges')
