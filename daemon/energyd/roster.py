"""Which stages are not final, found by id, by run and by client? Each question costs what it finds.

A flood leaves tens of thousands of stages waiting for their energy: who looks through all of them for one
makes the daemon quadratic.
"""

from __future__ import annotations

from collections import Counter, defaultdict

from energyd.stages import Stage


class Roster:
    """Stages from their begin until their final row."""

    def __init__(self) -> None:
        self.by_id: dict[str, Stage] = {}  # oldest first
        self.open = 0  # have not ended
        self._of_run: defaultdict[str, dict[str, Stage]] = defaultdict(dict)
        self._of_client: defaultdict[str, dict[str, Stage]] = defaultdict(dict)
        self._open_in: Counter[str] = Counter()

    def add(self, stage: Stage) -> None:
        """It has begun."""
        for held in (self.by_id, self._of_run[stage.run_id], self._of_client[stage.client]):
            held[stage.stage_id] = stage
        if stage.t1_ns is None:
            self.open += 1
            self._open_in[stage.run_id] += 1

    def ended(self, stage: Stage) -> None:
        """It is not open any more; its energy is pending."""
        self.open -= 1
        self._open_in[stage.run_id] -= 1
        if not self._open_in[stage.run_id]:
            del self._open_in[stage.run_id]

    def remove(self, stage: Stage) -> None:
        """It is final."""
        del self.by_id[stage.stage_id]
        for index, key in ((self._of_run, stage.run_id), (self._of_client, stage.client)):
            del index[key][stage.stage_id]
            if not index[key]:
                del index[key]

    def of_run(self, run_id: str) -> list[Stage]:
        """Those of a run."""
        return list(self._of_run[run_id].values()) if run_id in self._of_run else []

    def of_client(self, client: str) -> list[Stage]:
        """Those of a process."""
        return list(self._of_client[client].values()) if client in self._of_client else []

    def is_open(self, run_id: str) -> bool:
        """Whether a stage of that run has not ended."""
        return run_id in self._open_in
