"""What runs on two GPUs while the daemon watches? Ranks that train, a load, and a log of both counters.

Started by two_gpus.py, each in its own process. Where torch finds no GPU (a rehearsal over the fake library)
the ranks train on the CPU and a load only passes the time: the marks are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import energyd_client as energy
from energyd_client import clock

FAKE = "FAKE_NVML_CONTROL"
BATCH = {"tiny": (2, 32), "1b": (2, 2048)}  # sequences and positions a rank and step


def counters() -> None:
    """Log each step of each GPU's counter, (GPU, BOOTTIME ns, mJ) a line, until stdin ends.

    A step's time is the middle between the last read of the old value and the first of the new one: the GPUs
    are read in turn, 3 ms each, so that it is known to some 4 ms.
    """
    import pynvml

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(k) for k in range(pynvml.nvmlDeviceGetCount())]
    last: list[tuple[int, int] | None] = [None] * len(handles)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    while not over.is_set():
        for k, handle in enumerate(handles):
            before = clock.now_ns()
            mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            t_ns, old = (before + clock.now_ns()) // 2, last[k]
            if old is not None and old[1] != mj:
                print(json.dumps([k, (old[0] + t_ns) // 2, mj]), flush=True)
            last[k] = t_ns, mj
        time.sleep(0.001)


def launch(options: list[str]) -> None:
    """One run of two ranks; they find it by their environment. Prints its id."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with energy.run("ranks", pipeline="pretrain") as run:
        subprocess.run([*torchrun, __file__, "rank", *options], check=True, stdout=sys.stderr)
    assert energy.flush(10)
    print(run.run_id, flush=True)


def rank(shape_name: str, seconds: float, out: Path) -> None:
    """One rank: train together, rank 0 alone, then both, rank 1 later. Says in `out` what it counted."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from energyd_pipelines.shapes import random_model, shape_of

    local = int(os.environ["LOCAL_RANK"])
    cuda = torch.cuda.is_available() and FAKE not in os.environ
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    torch.set_num_threads(torch.get_num_threads() if cuda else 1)
    dist.init_process_group("nccl" if cuda else "gloo")
    by_cpu = dist.new_group(backend="gloo")  # to wait without a kernel that spins on the GPU
    shape = shape_of(shape_name)
    model = random_model(shape, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    together = DistributedDataParallel(model, device_ids=[local] if cuda else None)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=cuda)
    dice = torch.Generator(device=device).manual_seed(local)
    counted = 0

    def step(network: Any) -> int:
        ids = torch.randint(3, shape.vocab, BATCH[shape_name], device=device, generator=dice)
        network(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return ids.numel()

    def train(name: str, network: Any, go_on: Callable[[], bool]) -> None:
        nonlocal counted
        # Rank 0 names its GPU by number, rank 1 as torch does: both are what this process calls it.
        with energy.stage(name, devices=[local] if local == 0 else f"cuda:{local}", sync=True) as stage:
            while go_on():
                with energy.stage("step", devices=[local]) as one:
                    n = step(network)
                    one.count(positions=n)
                    counted += n
            stage.count(rounds=1)

    def until(t: float) -> Callable[[], bool]:
        return lambda: time.monotonic() < t

    def agreed(t: float) -> Callable[[], bool]:
        def ask() -> bool:
            answer = torch.tensor(int(time.monotonic() < t))
            dist.broadcast(answer, 0, group=by_cpu)
            return bool(answer.item())

        return ask

    for _ in range(2):
        step(together)  # what is made at the first step is no part of it
    dist.barrier(group=by_cpu)
    train(f"train rank {local}", together, agreed(time.monotonic() + seconds))
    if cuda:
        torch.cuda.synchronize()
    dist.barrier(group=by_cpu)
    if local == 0:
        train("solo rank 0", model, until(time.monotonic() + seconds / 4))
    dist.barrier(group=by_cpu)
    time.sleep(local * seconds / 8)
    train(f"late rank {local}", model, until(time.monotonic() + seconds / 4))
    dist.barrier(group=by_cpu)
    assert energy.flush(10)
    (out / f"rank-{local}.json").write_text(json.dumps({"positions": counted}))
    dist.destroy_process_group()


def load(name: str, seconds: float, gpu: int) -> None:
    """One run with one stage that keeps `cuda:GPU` busy; begins at a line of stdin. Names no device."""
    work = _work(gpu)
    print(os.getpid(), flush=True)
    sys.stdin.readline()
    with energy.run(name) as run, _stage(run, "load"):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            work()
    print(run.run_id, flush=True)
    assert energy.flush(10)


def _stage(run: energy.Run, name: str) -> AbstractContextManager[Any]:
    return run.stage(name, sync=True)


def _work(gpu: int) -> Callable[[], None]:
    """A piece of some 20 ms on that GPU; over the fake library, of doing nothing."""
    if FAKE in os.environ:
        return lambda: time.sleep(0.01)
    import torch

    torch.cuda.set_device(gpu)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(12):
            torch.mm(a, a)
        torch.cuda.synchronize()

    multiply()
    return multiply


def main() -> None:
    """One of the four."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("counters", "launch", "rank", "load"))
    parser.add_argument("--shape", default="1b")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--name", default="load")
    parser.add_argument("--gpu", type=int, default=0)
    given = parser.parse_args()
    if given.what == "counters":
        counters()
    elif given.what == "launch":
        launch(sys.argv[2:])
    elif given.what == "rank":
        rank(given.shape, given.seconds, given.out)
    else:
        load(given.name, given.seconds, given.gpu)


if __name__ == "__main__":
    main()
