"""Which samples of each device lie where: committed to hot.duckdb, in a live file, in a sealed file?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from energyd.energy import Appended, DeviceLog
from energyd.roughness import I32, I64
from energyd.store.live import Arrays


class Watermarks:
    """By device, the newest sample that each station has. Asked and changed under the recorder's lock."""

    def __init__(self, logs: Mapping[int, DeviceLog], hour: int) -> None:
        """A start: what the logs hold is committed; a log of one sample had all before it sealed."""
        self._logs = logs
        self.hour = hour  # the first that is not sealed, t_ns // HOUR_NS
        self._committed = {d: log.last_t_ns for d, log in logs.items() if log.last_t_ns is not None}
        self._exported: dict[int, int] = {}
        self._sealed: dict[int, int] = {}

    def all_sealed(self, device: int) -> None:
        """Nothing of what is committed of a device is unsealed."""
        if device in self._committed:
            self._sealed[device] = self._committed[device]

    @property
    def committed(self) -> Mapping[int, int]:
        """By device, its newest committed sample."""
        return self._committed

    @property
    def newest_ns(self) -> int | None:
        """The newest committed sample of any device."""
        return max(self._committed.values(), default=None)

    def commit(self, samples: Iterable[tuple[int, Appended]]) -> None:
        """A commit holds these."""
        for device, added in samples:
            self._committed[device] = int(added.t_ns[-1])

    def export(self, samples: Arrays) -> None:
        """Live files hold these."""
        for device, t_ns, _, _ in samples:
            self._exported[device] = int(t_ns[-1])

    def seal(self, end_ns: int, hour: int) -> None:
        """Sealed files hold all before `end_ns`, which memory may forget; `hour` is the next to be sealed."""
        for device, log in self._logs.items():
            t_ns, _, _ = log.after(self._sealed.get(device), until_ns=end_ns - 1)
            if len(t_ns):
                self._sealed[device] = int(t_ns[-1])
            log.trim(end_ns)
        self._exported.clear()  # no live file is left: what they held of the next hour is in the tail again
        self.hour = hour

    def unsealed(self) -> Arrays:
        """Committed samples that no sealed file holds, in (device, t_ns) order."""
        found: Arrays = []
        for device, until_ns in sorted(self._committed.items()):
            t_ns, power, cum = self._logs[device].after(self._sealed.get(device), until_ns)
            if len(t_ns):
                found.append((device, t_ns, power, cum))
        return found

    def after_export(self, device: int) -> tuple[I64, I32, I64]:
        """Committed samples of a device that no live file holds yet."""
        floor_ns = max(self._exported.get(device, -1), self._sealed.get(device, -1))
        return self._logs[device].after(floor_ns, self._committed.get(device, -1))
