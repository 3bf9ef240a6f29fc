"""What can be asked of `run.py`, and on which machine does it run?"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bench.accuracy.loads import KIND_OF
from bench.accuracy.session import LIVE_TOOLS, PROBES, RECORDING_TOOLS


def machine() -> dict[str, Any]:
    """The GPU and the driver, by NVML."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    found: dict[str, Any] = {
        "gpu": pynvml.nvmlDeviceGetName(handle),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
    }
    try:
        found["limit_w"] = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
    except pynvml.NVMLError:
        found["limit_w"] = None
    pynvml.nvmlShutdown()
    return found


def parse(arguments: list[str], said_of: str) -> argparse.Namespace:
    """Options; `said` keeps them as they were typed, for the report."""
    parser = argparse.ArgumentParser(
        description=said_of, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = list(dict.fromkeys(n.partition("@")[0] for n in (*LIVE_TOOLS, *RECORDING_TOOLS, *PROBES)))
    parser.add_argument("--out", type=Path, required=True, help="folder for raw data")
    parser.add_argument(
        "--loads", default=",".join(n for n in KIND_OF if n != "cpu-fake"), help="in this order"
    )
    parser.add_argument("--seconds-per-load", type=float, default=45, help="steady seconds that are measured")
    parser.add_argument("--only-tools", default=",".join(known), help="of these")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the planned windows")
    parser.add_argument("--budget-seconds", type=float, default=540, help="ends by itself after that")
    parser.add_argument("--seed", type=int, default=20261124)
    options = parser.parse_args(arguments)
    options.said = arguments
    options.loads = options.loads.split(",")
    options.tools = options.only_tools.split(",")
    if wrong := [n for n in options.loads if n not in KIND_OF] + [n for n in options.tools if n not in known]:
        parser.error(f"unknown: {', '.join(wrong)}; loads: {', '.join(KIND_OF)}; tools: {', '.join(known)}")
    return options
