"""What would a daemon publish? A stand-in that answers `ask_status` and publishes a scripted machine.

    python tests/daemon/top_publisher.py FOLDER [n_gpus]

Sockets FOLDER/energyd.sock and FOLDER/publish.sock; the file FOLDER/ready appears when both are bound.
The GPU's power is a slow wave around 400 W, the CPU's 60 W. `train` has been open for 30 s when it
starts, with `epoch 2` beneath; an `epoch 1` is over, and `preprocess` too.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import zmq

from energyd_client import clock, protocol

STORE_OFFSET_NS = 1_700_000_000_000_000_000
S = 1_000_000_000


class Machine:
    """The scripted power curves and stages, at any instant."""

    def __init__(self, n_gpus: int) -> None:
        self.start_ns = self.now_ns()
        self.gpus = list(range(n_gpus))
        self.cpu = n_gpus
        self.cum_uj = dict.fromkeys((*self.gpus, self.cpu), 50_000_000_000)
        self.n: dict[str, int] = {}

    @staticmethod
    def now_ns() -> int:
        return clock.now_ns() + STORE_OFFSET_NS

    def power_mw(self, device: int, t_ns: int) -> int:
        if device == self.cpu:
            return 60_000
        return int(1000 * (400 + 250 * math.sin((t_ns - self.start_ns) / S / 4 + device)))

    def number(self, topic: str) -> int:
        self.n[topic] = self.n.get(topic, 0) + 1
        return self.n[topic]

    def devices(self) -> list[dict[str, Any]]:
        gpu = {"domain": "gpu", "name": "NVIDIA H100 80GB HBM3", "source": "ring", "origin": "measured"}
        gpu |= {"period_ns": 20_000_000, "max_step_ns": 100_000_000, "power_limit_mw": 700_000}
        rows: list[dict[str, Any]] = [{"device": d, "uuid": f"GPU-{d}", **gpu} for d in self.gpus]
        rows.append(
            {"device": self.cpu, "uuid": "codecarbon:cpu", "domain": "cpu", "name": "AMD EPYC 9654",
             "source": "codecarbon", "origin": "estimated", "period_ns": S, "max_step_ns": 3 * S,
             "power_limit_mw": None}
        )  # fmt: skip
        return rows

    def status(self) -> dict[str, Any]:
        return {
            "state": "ok", "reason": None, "pid": 1, "version": "0.1.0", "started_ns": self.start_ns,
            "now_ns": self.now_ns(), "store": "/var/lib/energyd/store", "host_id": "h",
            "sources": ["nvml", "codecarbon"], "devices": self.devices(),
            "domains": [
                {"domain": "gpu", "state": "measured", "source": "ring", "reason": None},
                {"domain": "cpu", "state": "estimated", "source": "codecarbon", "reason": "no RAPL"},
                {"domain": "dram", "state": "unreadable", "source": None, "reason": "RAPL needs root"},
            ],
            "samples": 1, "gaps": 0, "markers": 12, "refused": 0, "clients": 1, "open_stages": 2,
            "waiting": 3, "late_ms_p99": 0.4, "commit_ms": 6.0, "exhausted": False,
        }  # fmt: skip

    def stages(self, tick: int) -> list[protocol.StageState]:
        t0 = self.start_ns - 30 * S
        begin = dict.fromkeys(self.gpus, 40_000_000_000) | {self.cpu: 48_200_000_000}

        def stage(
            stage_id: str, name: str, parent: str | None, state: str, t0_ns: int, t1_ns: int | None = None,
            counts: dict[str, int] | None = None, begin_uj: dict[int, int] | None = None,
            energy_uj: dict[int, int | None] | None = None,
        ) -> protocol.StageState:  # fmt: skip
            return protocol.StageState(
                n=self.number(stage_id), run_id="kd-1b-8f3a11", run="kd-1b", stage_id=stage_id,
                parent_id=parent, stage=name, state=state, status=None if state == "open" else "ok",
                t0_ns=t0_ns, t1_ns=t1_ns, counts=counts or {}, begin_uj=begin_uj or {},
                energy_uj=energy_uj or {},
            )  # fmt: skip

        spent = dict.fromkeys(self.gpus, 900_000_000) | {self.cpu: 180_000_000}
        half = dict.fromkeys(self.gpus, 5_000_000_000) | {self.cpu: 900_000_000}
        words = [stage("s1", "train", None, "open", t0, begin_uj=begin)]
        words.append(
            stage(
                "s3", "epoch 2", "s1", "open", t0 + 16 * S, begin_uj={d: begin[d] + half[d] for d in begin},
                counts={"label": 412_000 + 900 * tick, "positions": 824_000 + 1800 * tick},
            )
        )  # fmt: skip
        if tick == 0:
            words.append(
                stage("s0", "preprocess", None, "final", t0 - 3 * S, t0, {"label": 96_000}, {}, spent)
            )
            words.append(stage("s2", "epoch 1", "s1", "final", t0, t0 + 15 * S, {"label": 420_000}, {}, half))
        return words


def main(folder: Path, n_gpus: int) -> None:
    """Answer and publish until killed."""
    machine = Machine(n_gpus)
    context = zmq.Context()
    router, xpub = context.socket(zmq.ROUTER), context.socket(zmq.XPUB)
    publish = f"ipc://{folder / 'publish.sock'}"
    router.bind(f"ipc://{folder / 'energyd.sock'}")
    xpub.bind(publish)
    (folder / "ready").touch()
    last: dict[bytes, bytes] = {}

    def send(topic: str, message: protocol.Message) -> None:
        last[topic.encode()] = protocol.pack(message)
        xpub.send_multipart([topic.encode(), last[topic.encode()]])

    tick, sampled_ns = 0, machine.now_ns() - 25 * S
    while True:
        now_ns = machine.now_ns()
        for device in machine.cum_uj:
            step_ns = 500_000_000 if device == machine.cpu else 20_000_000
            times = list(range(sampled_ns + step_ns, now_ns + 1, step_ns))
            if times:
                powers = [machine.power_mw(device, t) for t in times]
                machine.cum_uj[device] += sum(powers) * step_ns // S * 1000
                n = machine.number(f"samples/{device}")
                send(f"samples/{device}", protocol.Samples(n, device, times, powers, machine.cum_uj[device]))
        sampled_ns = now_ns
        if tick % 2 == 0:
            send("devices", protocol.DeviceList(machine.number("devices"), machine.devices()))
            send("health", protocol.Health(machine.number("health"), machine.status() | {"publish": publish}))
        for stage in machine.stages(tick):
            send(f"stages/{stage.stage_id}", stage)
        tick += 1
        deadline = time.monotonic() + 0.5
        while (left := deadline - time.monotonic()) > 0:
            if router.poll(min(50, int(left * 1000))):
                who, *_, frame = router.recv_multipart()
                message = protocol.unpack(frame)
                if isinstance(message, protocol.Hello):
                    reply: protocol.Message = protocol.Welcome(
                        protocol.VERSION, "0.1.0", publish, True, protocol.CREDIT, 0
                    )
                elif isinstance(message, protocol.AskStatus):
                    reply = protocol.Answer(message.req, machine.status() | {"publish": publish})
                else:
                    continue
                router.send_multipart([who, protocol.pack(reply)])
            while xpub.poll(0):
                wish = xpub.recv()
                if wish[:1] == b"\x01":
                    for topic, data in last.items():
                        if topic.startswith(wish[1:]):
                            xpub.send_multipart([topic, data])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
