"""Does the ring's integral over a program agree with the GPU's own energy counter, read around it?

    python tests/hardware/measured_demo.py [options of small_program.py]

Starts a daemon in its own process over a fresh store, reads the hardware counter twice in this process (each
time at the counter's own step), runs it between, and compares with `energy_j`: raw ring samples,
integrated in SQL, no counter in it. Prints a report; exit 1 beyond 1 %.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pynvml

sys.path.insert(0, str(Path(__file__).parent))

import small_program
from counter import counter_at_step

LIMIT = 0.01


def energyd(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 4):
        sys.exit(f"{module} {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def main() -> int:
    store = str(Path(tempfile.mkdtemp()) / "s")
    os.environ["ENERGYD_ENDPOINT"] = f"ipc://{store}/energyd.sock"
    os.environ["ENERGYD_SPOOL"] = f"{store}/spool"
    energyd("energyd", "start", "--store", store)
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        name = pynvml.nvmlDeviceGetName(handle)
        driver = pynvml.nvmlSystemGetDriverVersion()
        t0, before_j = counter_at_step(handle)
        small_program.main(sys.argv[1:])
        t1, after_j = counter_at_step(handle)
        print("\n" + energyd("energyd", "status", "--store", store))
    finally:
        energyd("energyd", "stop", "--store", store)

    def query(sql: str) -> dict[str, object]:
        found: list[dict[str, object]] = json.loads(
            energyd("energyq", "--store", store, "--format", "json", sql)
        )
        return found[0]

    offset = int(str(query("SELECT offset_ns FROM boots")["offset_ns"]))
    device = "(SELECT min(device) FROM devices WHERE domain = 'gpu')"
    ring = query(f"SELECT energy_j({device}, {t0 + offset}, {t1 + offset}) AS j")
    inside = f"device = {device} AND t_ns BETWEEN {t0 + offset} AND {t1 + offset}"
    kept = query(f"SELECT count(*) AS n, min(t_ns) AS a, max(t_ns) AS b FROM samples WHERE {inside}")
    gaps = query("SELECT count(*) AS n FROM gaps WHERE device = " + device)
    counter_j, ring_j = after_j - before_j, float(str(ring["j"]))
    error = ring_j / counter_j - 1
    print(energyd("energyq", "--store", store, "stages", "--format", "table"))
    wanted = ("stage", "device", "source", "energy_j", "counter_j", "coverage", "n_samples", "flags")
    compared = f"SELECT {', '.join(wanted)} FROM stage_energy WHERE domain = 'gpu' ORDER BY t0_ns"
    print(energyd("energyq", "--store", store, "--format", "table", compared))
    print(energyd("energyq", "--store", store, "verify"))
    print(f"GPU              {name}, driver {driver}")
    print(f"window           {(t1 - t0) / 1e9:.3f} s around the run, from one step of the counter to another")
    apart_ms = (t1 - t0) / 1e6 / int(str(kept["n"]))
    print(f"ring samples     {kept['n']} ({apart_ms:.2f} ms apart), gaps {gaps['n']}")
    print(f"two counter reads{counter_j:12.2f} J")
    print(f"ring integral    {ring_j:12.2f} J")
    print(f"difference       {100 * error:+.3f} %  (limit {100 * LIMIT:.0f} %)")
    return 0 if abs(error) <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
