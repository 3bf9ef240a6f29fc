"""What does the machine take before there is work: idle, idle with a context, and busy until it is warm?"""

from __future__ import annotations

import time

import torch

import energyd_client as energy
from energyd_pipelines.config import PrerunConfig


def prerun(
    run: energy.Run, config: PrerunConfig, device: torch.device, devices: list[int] | None
) -> str | None:
    """The parts of stage `prerun`, inside of it. Those that idle are called `prerun.…`, as baselines are.

    Returns the id of the stage that idled, the floor of whatever follows.
    """
    idle = None
    if config.idle_s > 0:
        with run.stage("prerun.idle", devices=devices) as stage:
            time.sleep(config.idle_s)
        idle = stage.stage_id
    if config.context_s > 0:
        with run.stage("prerun.context", devices=devices):
            torch.zeros(1, device=device)
            time.sleep(config.context_s)
    if config.burn_s > 0:
        with run.stage("burn", devices=devices):
            _burn(config.burn_s, device)
    return idle


def _burn(seconds: float, device: torch.device) -> None:
    """Matrix products for about `seconds`."""
    size, dtype = (4096, torch.bfloat16) if device.type == "cuda" else (256, torch.float32)
    a = torch.randn(size, size, device=device, dtype=dtype)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(8):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # else the queue grows far beyond the time
