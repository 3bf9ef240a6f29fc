-- On which devices did these runs go, how are they read, and by which driver?
SELECT v.domain, v.name, v.uuid, v.source, v.origin, v.period_ns / 1e6 AS period_ms, v.power_limit_mw / 1e3 AS limit_w,
  v.driver, v.device, v.max_step_ns
FROM devices v WHERE v.device IN (SELECT device FROM stage_energy WHERE list_contains($runs::VARCHAR[], run_id)) ORDER BY v.device
