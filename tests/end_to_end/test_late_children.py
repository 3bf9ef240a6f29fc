"""What becomes of a child process that is heard when its run is over?"""

from __future__ import annotations

from real_daemon import Daemon, wait_for

LATE = "with energy.stage('late'): time.sleep(0.1)"


def test_a_child_heard_after_its_runs_end_leaves_one_closed_run_also_across_a_restart(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    run_id = daemon.finish("with energy.run('train', seed=1) as run: pass\nprint(run.run_id)").strip()
    daemon.env["ENERGYD_RUN_ID"] = run_id
    daemon.finish(LATE)
    daemon.stop()
    daemon.start(source="simulated")  # this one has never heard of the run
    daemon.finish(LATE)
    final = "SELECT run_id FROM stages WHERE state = 'final'"
    assert wait_for(lambda: len(daemon.query(final)) == 2 and daemon.query(final)) == [{"run_id": run_id}] * 2
    row = {"name": "train", "status": "ok", "seed": "1"}
    runs = "SELECT name, status, labels->>'seed' AS seed FROM runs"
    wait_for(lambda: daemon.query("SELECT count(*) AS n FROM raw_runs_log WHERE t1_ns IS NULL")[0]["n"] == 0)
    assert daemon.query(runs) == [row]
    daemon.stop()
    assert daemon.query(runs) == [row]
