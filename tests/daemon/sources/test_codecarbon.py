"""Does the estimate come from the real CodeCarbon, and does the daemon outlive it?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from energyd.sources import Break, Changed, Event, PowerSamples
from energyd.sources.codecarbon import UUID, CodeCarbonSource
from energyd_client.clock import now_ns

WHY = "no RAPL package in /sys/class/powercap"


@pytest.fixture
def source() -> Iterator[CodeCarbonSource]:
    made = CodeCarbonSource(WHY)
    yield made
    made.close()


def read_until(
    source: CodeCarbonSource, events: list[Event], done: Callable[[], bool], seconds: float = 60
) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, events
        events += source.read()
        time.sleep(0.05)


def samples(events: list[Event]) -> list[PowerSamples]:
    return [event for event in events if isinstance(event, PowerSamples)]


def test_the_real_codecarbon_estimates_in_a_child_that_dies_and_comes_back(source):
    begin_ns = now_ns()
    source.open()
    opened_s = (now_ns() - begin_ns) / 1e9
    assert source.devices() == []
    assert source.domains()[0].state == "estimated"
    assert "starting" in source.domains()[0].reason
    events: list[Event] = []
    read_until(source, events, lambda: len(samples(events)) >= 3)
    announced_ns = next(e.t_ns for e in events if isinstance(e, Changed))
    assert opened_s < (announced_ns - begin_ns) / 1e9

    (info,) = source.devices()
    assert (info.uuid, info.origin, info.source, info.domain) == (UUID, "estimated", "codecarbon", "cpu")
    assert "TDP" in info.driver
    cpu, dram = source.domains()
    assert cpu.state == "estimated"
    assert WHY in cpu.reason
    assert "TDP" in cpu.reason
    assert dram.state == "absent"
    assert dram.reason
    given = samples(events)
    t_ns = np.concatenate([e.t_ns for e in given])
    energy_uj = np.concatenate([e.energy_uj for e in given])
    power_mw = np.concatenate([e.power_mw for e in given])
    assert (np.diff(t_ns) > 0).all()
    assert t_ns[0] < announced_ns  # the load while CodeCarbon was starting is not lost
    assert power_mw.min() > 0
    means_j = power_mw[1:] * np.diff(t_ns) / 1e12
    assert energy_uj[1:] / 1e6 == pytest.approx(means_j, rel=1e-3)

    child = source._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    known = len(samples(events))
    read_until(source, events, lambda: len(samples(events)) > known + 1)
    (died,) = [e for e in events if isinstance(e, Break)]
    assert died.reason.startswith("lost")
    after = samples(events)[known:]
    t_ns = np.concatenate([samples(events)[known - 1].t_ns[-1:], *(e.t_ns for e in after)])
    power_mw = np.concatenate([samples(events)[known - 1].power_mw[-1:], *(e.power_mw for e in after)])
    assert (np.diff(t_ns) > 0).all()
    # Between the two children nothing was estimated: that step is the straight line, never 0.
    between = next(e for e in after if len(e.t_ns) == 2)
    at = int(np.flatnonzero(t_ns == between.t_ns[0])[0])
    line_j = (int(power_mw[at - 1]) + int(power_mw[at])) / 2 * (t_ns[at] - t_ns[at - 1]) / 1e12
    assert between.energy_uj[0] / 1e6 == pytest.approx(line_j, rel=1e-3)


def test_a_codecarbon_that_cannot_be_imported_leaves_the_cpu_unreadable_with_the_reason(
    source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "codecarbon").mkdir()
    (tmp_path / "codecarbon/__init__.py").write_text("raise ImportError('pandas is broken here')")
    monkeypatch.syspath_prepend(str(tmp_path))
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: source.domains()[0].state == "unreadable")
    assert "pandas is broken here" in source.domains()[0].reason
    assert any(isinstance(event, Changed) for event in events)
    assert source.devices() == []


def test_what_a_library_prints_never_reaches_the_parents_pipe(source, tmp_path, monkeypatch):
    (tmp_path / "codecarbon").mkdir()
    (tmp_path / "codecarbon/__init__.py").write_text(
        "import os; print('noise'); os.write(1, b'noise'); raise RuntimeError('quiet please')"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    source.open()
    events: list[Event] = []
    read_until(source, events, lambda: source.domains()[0].state == "unreadable")
    assert "quiet please" in source.domains()[0].reason


def test_the_child_dies_with_a_parent_that_is_killed():
    code = (
        "import sys, time; from energyd.sources.codecarbon import CodeCarbonSource;"
        "s = CodeCarbonSource('x'); s.open(); print(s._child.pid, flush=True); time.sleep(60)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # a zombie waits for whoever adopted it


def test_pandas_is_not_loaded_into_the_sampling_process():
    code = (
        "import sys; from energyd.sources.discover import discover; s = discover('auto');"
        "[x.open() for x in s]; [x.read() for x in s]; [x.close() for x in s];"
        "print('pandas' in sys.modules, 'codecarbon' in sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == ["False", "False"]
