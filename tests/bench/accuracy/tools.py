"""How is each tool asked for the energy of a window, while the window happens?

Every tool is used as its documentation says (versions are in the report's head) and no further: begin, end,
the joules that it answers. What it needs is imported in its constructor, so that a missing package is one
tool's loss. `nested` tells whether it can have several windows open at once.
"""

from __future__ import annotations

import contextvars
import warnings
from importlib.metadata import version
from typing import Any, Protocol


class Live(Protocol):
    """A tool that is called at both edges of a window."""

    nested: bool
    version: str

    def begin(self, name: str) -> None:
        """The window begins now."""

    def end(self, name: str) -> float | None:
        """The window ends now: its energy in J, None where the tool gives none."""

    def close(self) -> None:
        """Stop all threads and processes."""


class EnergydStages:
    """Stages of the real client; the energies are read from the store afterwards."""

    nested = True

    def __init__(self) -> None:
        import energyd_client

        self.version = energyd_client.__version__
        self._client = energyd_client
        self._run = energyd_client.run("accuracy").begin()
        # Windows overlap without being one another's parts: each begins beside the others, not inside.
        self._beside = contextvars.copy_context()
        self._open: dict[str, Any] = {}

    def begin(self, name: str) -> None:
        stage = self._run.stage(name, devices=[0])
        self._beside.copy().run(stage.begin)
        self._open[name] = stage

    def end(self, name: str) -> float | None:
        self._beside.copy().run(self._open.pop(name).end)
        return None

    def close(self) -> None:
        self._run.end()
        self._client.flush(10)


class ZeusWindows:
    """ZeusMonitor: the counter read at both edges. No torch runs in this process, so nothing to sync."""

    nested = True

    def __init__(self, approx: bool) -> None:
        from zeus.monitor import ZeusMonitor

        self.version = version("zeus")
        warnings.simplefilter("ignore")  # a zero is counted here, not warned of
        self._monitor = ZeusMonitor(gpu_indices=[0], cpu_indices=[], approx_instant_energy=approx)

    def begin(self, name: str) -> None:
        self._monitor.begin_window(name, sync_execution=False)

    def end(self, name: str) -> float | None:
        return float(self._monitor.end_window(name, sync_execution=False).gpu_energy[0])

    def close(self) -> None:
        """It has nothing to stop."""


class CodeCarbonTasks:
    """Tasks of an offline tracker, one at a time."""

    nested = False

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        self.version = version("codecarbon")
        self._tracker = OfflineEmissionsTracker(
            country_iso_code="FRA", output_methods=[], log_level="error", measure_power_secs=3600,
            allow_multiple_runs=True, gpu_ids=[0],
        )  # fmt: skip

    def begin(self, name: str) -> None:
        self._tracker.start_task(name)

    def end(self, name: str) -> float | None:
        data = self._tracker.stop_task(name)
        return None if data is None else float(data.gpu_energy) * 3.6e6

    def close(self) -> None:
        self._tracker.stop()


class NvitopCollector:
    """ResourceMetricCollector: its mean power times its duration, one window at a time.

    An outer tag stays active: with none, the sampling thread ends and cannot be started again. Tags nest
    strictly, so windows that merely overlap need a collector each.
    """

    nested = False

    def __init__(self, interval_s: float) -> None:
        from nvitop import Device, ResourceMetricCollector

        self.version = version("nvitop")
        self._collector = ResourceMetricCollector([Device(0)], interval=interval_s, root_pids=set())
        self._collector.activate("bench")

    def begin(self, name: str) -> None:
        self._collector.activate(name)

    def end(self, name: str) -> float | None:
        found = self._collector.collect()
        self._collector.deactivate(name)
        power_w = next((v for k, v in found.items() if k.endswith("/power_usage (W)/mean")), None)
        seconds = next((v for k, v in found.items() if k.endswith("/duration (s)")), None)
        return None if power_w is None or seconds is None else power_w * seconds

    def close(self) -> None:
        self._collector.deactivate("bench")


LIVE = {
    "energyd-stage": EnergydStages,
    "zeus-window": lambda: ZeusWindows(approx=False),
    "zeus-window-approx": lambda: ZeusWindows(approx=True),
    "codecarbon": CodeCarbonTasks,
    "nvitop-0.1s": lambda: NvitopCollector(0.1),
    "nvitop-1s": lambda: NvitopCollector(1.0),
}
