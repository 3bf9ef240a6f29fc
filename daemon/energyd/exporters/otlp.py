"""What does an OpenTelemetry collector get? `hw.energy` and `hw.power`, pushed as OTLP over HTTP in JSON.

Names and attributes are those of OpenTelemetry's semantic conventions for hardware; for stages there is no
convention, so theirs begin with `energyd.`. OTLP's JSON is plain enough to need no library. Counters are
cumulative: a push that fails loses nothing that the next one does not tell.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import urllib.request
from typing import Any, Final

from energyd.exporters.feed import Feed
from energyd.exporters.figures import Figures
from energyd_client.version import __version__

log = logging.getLogger("energyd")

EVERY_S: Final = 10.0
FIRST_S: Final = 1.0  # a collector that is set up right shows it at once
TIMEOUT_S: Final = 5.0
CUMULATIVE: Final = 2
"""AGGREGATION_TEMPORALITY_CUMULATIVE."""
_TYPES: Final = {"gpu": "gpu", "cpu": "cpu", "dram": "memory"}


class Pusher:
    """Sends the figures to a collector every 10 s, and once more at the end."""

    def __init__(self, url: str, feed: Feed) -> None:
        self._url = url.rstrip("/") + ("" if url.rstrip("/").endswith("/v1/metrics") else "/v1/metrics")
        self._feed = feed
        self._began: dict[int, tuple[int, int]] = {}  # device: (instant, running integral) first told
        self._tried = False
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        """Begin to push."""
        self._thread.start()

    def close(self) -> None:
        """One last push, and the thread ends."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=2 * TIMEOUT_S)

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(EVERY_S if self._tried else FIRST_S)
            try:
                self.push()
            except Exception:  # a bug here must not end the pushing
                log.exception("otlp: unexpected error, going on")

    def push(self) -> None:
        """Send the figures once; a collector that does not take them is logged, not raised."""
        if not self._feed.families():
            return  # not heard yet, or no longer
        self._tried = True
        with self._feed.lock:
            message = metrics(self._feed.figures, self._began)
        request = urllib.request.Request(
            self._url, json.dumps(message).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                answer.read()
        except (OSError, ValueError) as error:
            if not self._failing:  # once, or a collector that is away would fill the log
                log.warning("otlp: %s does not take the figures: %s; going on", self._url, error)
            self._failing = True
        else:
            self._failing = False


def metrics(figures: Figures, began: dict[int, tuple[int, int]]) -> dict[str, Any]:
    """The figures as an ExportMetricsServiceRequest in JSON.

    `began` keeps where each device's counter was when it was first told: OTLP counts from a start.
    """
    assert figures.status is not None
    now_ns, started_ns = figures.status["now_ns"], figures.status["started_ns"]
    energy, power, stages = [], [], []
    for device, labels in figures.named():
        about = {
            "hw.id": device["uuid"], "hw.type": _TYPES[device["domain"]], "hw.name": device["name"],
            "energyd.origin": labels["origin"], "energyd.source": device["source"],
        }  # fmt: skip
        if device["cum_uj"] is not None:
            t0_ns, first_uj = began.setdefault(device["device"], (now_ns, device["cum_uj"]))
            energy.append(_point(about, now_ns, (device["cum_uj"] - first_uj) / 1e6, t0_ns))
        if device["power_mw"] is not None and not figures.silent(device):
            power.append(_point(about, now_ns, device["power_mw"] / 1e3))
    for (stage, domain), uj in figures.energy_uj.items():
        about = {"energyd.stage": stage, "hw.type": _TYPES[domain]}
        stages.append(_point(about, now_ns, uj / 1e6, started_ns))
    found = [
        _counter("hw.energy", "J", "Energy consumed by the component.", energy),
        {"name": "hw.power", "unit": "W", "description": "Power drawn now.", "gauge": {"dataPoints": power}},
        _counter("energyd.stage.energy", "J", "Energy of ended stages, children included.", stages),
    ]
    kept = [m for m in found if (m.get("sum") or m["gauge"])["dataPoints"]]
    resource = {"service.name": "energyd", "service.version": __version__, "host.name": socket.gethostname()}
    scope = {"name": "energyd", "version": __version__}
    return {
        "resourceMetrics": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeMetrics": [{"scope": scope, "metrics": kept}],
            }
        ]
    }


def _counter(name: str, unit: str, text: str, points: list[dict[str, Any]]) -> dict[str, Any]:
    total = {"dataPoints": points, "aggregationTemporality": CUMULATIVE, "isMonotonic": True}
    return {"name": name, "unit": unit, "description": text, "sum": total}


def _point(about: dict[str, str], t_ns: int, value: float, start_ns: int | None = None) -> dict[str, Any]:
    point = {"attributes": _attributes(about), "timeUnixNano": str(t_ns), "asDouble": value}
    return point if start_ns is None else {**point, "startTimeUnixNano": str(start_ns)}


def _attributes(values: dict[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]
