"""Which tests may be skipped in CI? Only those that `allowed_skips.txt` names; any other skip fails the run.

A pytest plugin, loaded by the Makefile (`-p tests.allowed_skips`). With the environment variable CI set
an unlisted skip makes the run fail; without it the summary only says that it would.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LIST = Path(__file__).with_suffix(".txt")


def read_list(text: str) -> list[tuple[str, str]]:
    """(start of the test's id, part of the reason) per line `ID | REASON`; `#` begins a comment."""
    pairs = []
    for raw in text.splitlines():
        entry = raw.split("#", 1)[0].strip()
        if entry:
            start, bar, reason = (part.strip() for part in entry.partition("|"))
            if not bar or not start or not reason:
                raise pytest.UsageError(f"{LIST.name}: want `test id | part of the reason`, not: {raw}")
            pairs.append((start, reason))
    return pairs


class SkipGate:
    """Collects skips in the controlling process; with xdist the workers' reports arrive there too."""

    def __init__(self, allowed: list[tuple[str, str]], strict: bool) -> None:
        self.allowed, self.strict = allowed, strict
        self.unlisted: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look(report)

    def _look(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(report.nodeid.startswith(start) and part in reason for start, part in self.allowed):
            self.unlisted.append(f"{report.nodeid} | {reason.removeprefix('Skipped: ')}")

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and self.strict and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unlisted:
            verdict = "this run fails" if self.strict else "CI would fail"
            terminalreporter.section(f"skips that tests/{LIST.name} does not allow: {verdict}")
            for entry in self.unlisted:
                terminalreporter.write_line(entry)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        strict = os.environ.get("CI", "").lower() not in {"", "0", "false"}
        config.pluginmanager.register(SkipGate(read_list(LIST.read_text()), strict), "allowed-skips")
