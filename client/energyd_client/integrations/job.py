"""Who keeps a batch job's run open, when the scripts that the scheduler calls end at once?

    python -m energyd_client.integrations.job NAME [--gpus 0,3] [--label KEY=VALUE …]

Begins a run with one stage `job`, prints what the job's programs need to join it (lines NAME=VALUE, and
ENERGYD_JOB_PID), goes to the background and ends both at SIGTERM. Run it as the job's user: a run belongs to
who began it. If it is killed, the run ends `aborted`, as for any program.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import energyd_client as energy
from energyd_client.endpoints import ENV_RUN_ID, ENV_STAGE_ID


def main() -> int:
    """Hold a run open until told to end."""
    parser = argparse.ArgumentParser(prog="energyd_client.integrations.job", description=__doc__)
    parser.add_argument("name", help="of the run")
    parser.add_argument("--gpus", help="NVML indices or UUIDs that the job was given, as 0,3; empty: none")
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    chosen = parser.parse_args()
    labels = dict(label.split("=", 1) for label in chosen.label if "=" in label)
    for name in (ENV_RUN_ID, ENV_STAGE_ID, "CUDA_VISIBLE_DEVICES"):  # the scheduler's own, not the job's
        os.environ.pop(name, None)
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as said:
            words = said.read()
        sys.stdout.write(words)
        return 0 if words else 1
    os.close(reader)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    gpus = None if chosen.gpus is None else [g for g in chosen.gpus.split(",") if g]
    run = energy.run(chosen.name, **labels).begin()
    stage = run.stage("job", devices=gpus).begin()
    _leave_terminal()
    with os.fdopen(writer, "w") as said:
        said.write(f"{ENV_RUN_ID}={run.run_id}\n{ENV_STAGE_ID}={stage.stage_id}\n")
        said.write(f"ENERGYD_JOB_PID={os.getpid()}\n")
    signal.sigwait({signal.SIGTERM})
    stage.end()
    run.end()
    energy.flush()
    return 0


def _leave_terminal() -> None:
    """Keep neither the scheduler's pipes open, which it would wait for, nor its folder."""
    os.chdir(Path("/"))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
