-- How did power go between two instants, device by device, in so many equal pieces? Watts.
SELECT s.device, (s.t_ns - $t0_ns) * $pieces // ($t1_ns - $t0_ns) AS piece,
  min(s.power_mw) / 1e3 AS low_w, max(s.power_mw) / 1e3 AS high_w, avg(s.power_mw) / 1e3 AS mean_w
FROM samples s WHERE s.t_ns >= $t0_ns AND s.t_ns < $t1_ns
GROUP BY ALL ORDER BY s.device, piece
