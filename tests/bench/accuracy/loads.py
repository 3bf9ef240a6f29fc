"""What does the GPU do while it is measured?

    python -m bench.accuracy.loads KIND      with KIND one of matmul, train, decode, nothing

Serves loads of one kind by name, in a process of its own. In, one a line: {"load": NAME, "seed": N} begins,
{"stop": true} ends it; the end of stdin ends the process. Out: {"ready"}, {"steady"} once the load runs
evenly, {"stopped", …} with what was done. Heavy imports are done at once, CUDA is woken by the first load.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

SQUARES_MS: Final = (20, 50, 100, 250, 500, 1000)
KIND_OF: Final = {
    **{f"square-{ms}ms": "matmul" for ms in SQUARES_MS},
    "bursts": "matmul",
    "idle": "matmul",
    "plateau": "matmul",
    "train-1b": "train",
    "decode-32b": "decode",
    "cpu-fake": "nothing",
}
"""Every load and the kind of process that it runs in. `cpu-fake` does nothing: the fake NVML library plays
its own curve whatever runs."""

BURSTY: Final = ("square-50ms", "square-100ms", "square-250ms", "square-500ms", "square-1000ms", "bursts")
LLM: Final = ("train-1b", "decode-32b")

Say = Callable[..., None]


class Matmul:
    """A bf16 matrix product (8192 cubed, 1.5 ms on an H100), switched on and off by the clock."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._a: Any = None

    def _once(self) -> None:
        self._torch.mm(self._a, self._b, out=self._c)
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def _wake(self) -> None:
        if self._a is not None:
            return
        torch = self._torch
        n = 8192 if self._device == "cuda" else 128
        self._a, self._b = (torch.randn(n, n, device=self._device).to(torch.bfloat16) for _ in range(2))
        self._c = torch.empty_like(self._a)
        for _ in range(3):
            self._once()

    def run(self, name: str, seed: int, stop: threading.Event, say: Say) -> dict[str, Any]:
        """Play one of the loads until `stop`."""
        self._wake()
        if name == "idle":
            time.sleep(3)  # clocks and power come down after what ran before
            say(steady=name)
            stop.wait()
            return {}
        steps = _steps(name, random.Random(seed))
        due = time.monotonic()
        steady_at, said, done = due + 1.5, False, 0
        while not stop.is_set():
            on_s, off_s = next(steps)
            end = due + on_s
            while time.monotonic() < end and not stop.is_set():
                self._once()
                done += 1
            due = end + off_s
            time.sleep(max(0.0, due - time.monotonic()))
            if not said and time.monotonic() > steady_at:
                said = True
                say(steady=name)
        return {"products": done}


def _steps(name: str, rng: random.Random) -> Any:
    """(on, off) seconds, for ever."""
    while True:
        if name == "plateau":
            yield 0.2, 0.0
        elif name == "bursts":
            yield tuple(min(1.5, max(0.03, rng.expovariate(1 / 0.35))) for _ in range(2))
        else:
            half_s = int(name.removeprefix("square-").removesuffix("ms")) / 1000
            yield half_s, half_s


class Nothing:
    """No load at all."""

    def run(self, name: str, seed: int, stop: threading.Event, say: Say) -> dict[str, Any]:
        say(steady=name)
        stop.wait()
        return {}


def _make(kind: str) -> Any:
    if kind == "matmul":
        return Matmul()
    if kind == "nothing":
        return Nothing()
    from bench.accuracy import llm

    return llm.Train() if kind == "train" else llm.Decode()


def main() -> None:
    """Serve loads until stdin ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    lock = threading.Lock()

    def say(**what: Any) -> None:
        with lock:
            out.write(json.dumps(what) + "\n")

    try:
        player = _make(sys.argv[1])
    except BaseException as error:
        traceback.print_exc()
        say(failed=f"{type(error).__name__}: {error}")
        return
    say(ready=True)
    stop = threading.Event()
    thread: threading.Thread | None = None

    def play(name: str, seed: int) -> None:
        try:
            say(stopped=name, **player.run(name, seed, stop, say))
        except BaseException as error:
            traceback.print_exc()
            say(failed=f"{type(error).__name__}: {error}")

    for line in sys.stdin:
        order = json.loads(line)
        if "load" in order:
            stop.clear()
            thread = threading.Thread(target=play, args=(order["load"], order["seed"]), daemon=True)
            thread.start()
        else:
            stop.set()
    stop.set()
    if thread is not None:
        thread.join(timeout=8)
    out.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
