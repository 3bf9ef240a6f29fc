"""When does the hardware's energy counter step, and to what? The clock of all tick windows.

    python -m bench.accuracy.reference ENDPOINT [GPU index]

Reads the counter back to back and publishes every step at once: number, middle of the last read with the
old value, middle of the first with the new one (CLOCK_BOOTTIME ns), mJ. Ends when its stdin does.
"""

from __future__ import annotations

import os
import struct
import sys
import threading
import time

import pynvml
import zmq

from energyd_client.clock import now_ns

TICK = struct.Struct("<qqqq")
_PAUSE_S = 0.0005  # lets other readers of the counter in; a read itself takes 2.8 ms on an H100


def main() -> None:
    """Publish steps until stdin ends."""
    endpoint, index = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    context = zmq.Context()
    out = context.socket(zmq.PUB)
    out.setsockopt(zmq.SNDHWM, 0)
    out.bind(endpoint)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print('{"ready": true}', flush=True)
    number, last_mj, last_ns = 0, None, 0
    failures = 0
    while not over.is_set():
        before = now_ns()
        try:
            mj = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except pynvml.NVMLError as error:
            failures += 1
            if failures % 100 == 1:
                print(f"counter refused ({failures} times): {error}", file=sys.stderr, flush=True)
            time.sleep(0.01)
            continue
        middle = (before + now_ns()) // 2
        if last_mj is not None and mj != last_mj:
            number += 1
            out.send(TICK.pack(number, last_ns, middle, mj))
        last_mj, last_ns = mj, middle
        time.sleep(_PAUSE_S)
    out.close(linger=0)
    context.term()
    pynvml.nvmlShutdown()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(1)
