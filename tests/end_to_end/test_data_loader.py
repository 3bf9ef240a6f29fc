"""Do the stages of a DataLoader's forked workers all arrive, beside those of the training loop?"""

from __future__ import annotations

from real_daemon import Daemon, wait_for

PROGRAM = """
import torch
from torch.utils.data import DataLoader, Dataset

class Tagged(Dataset):
    def __len__(self): return 40
    def __getitem__(self, n):
        with energy.stage("read", devices=[]) as stage:
            stage.count(items=1)
            return torch.tensor([n])

with energy.run("train") as run:
    for epoch in range(2):
        with run.stage("epoch") as stage:
            loader = DataLoader(Tagged(), batch_size=4, num_workers=2, multiprocessing_context="fork")
            for batch in loader:
                stage.count(samples=len(batch))
    assert energy.flush(20), energy.losses()
assert energy.losses() == {}, energy.losses()
"""


def test_every_stage_tagged_in_forked_workers_of_a_data_loader_is_delivered(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    process = daemon.program(PROGRAM)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert "energyd" not in err
    count = "SELECT count(*) AS n FROM stages WHERE state = 'final'"
    wait_for(lambda: daemon.query(count) == [{"n": 82}])
    (reads,) = daemon.query(
        "SELECT count(*) AS n, count(DISTINCT r.pid) AS workers, count(DISTINCT r.parent_id) AS epochs,"
        " count(DISTINCT r.run_id) AS runs, bool_and(e.name = 'epoch') AS nested,"
        " bool_and(r.status = 'ok') AS ok, bool_and(r.counts->>'items' = '1') AS counted"
        " FROM stages r JOIN stages e ON e.stage_id = r.parent_id WHERE r.name = 'read'"
    )
    assert reads == {
        "n": 80, "workers": 4, "epochs": 2, "runs": 1, "nested": True, "ok": True, "counted": True,
    }  # fmt: skip
    assert daemon.query("SELECT status FROM runs") == [{"status": "ok"}]
    wait_for(lambda: not list(daemon.spool.iterdir()))
