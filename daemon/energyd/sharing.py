"""Which processes on a GPU are strangers to a stage, and which are its own?

NVML lists the compute processes of each GPU once a second. To a stage belong the processes of its run (by
their connections to this daemon), what they started and what started them, as /proc tells: a loader's
workers, a launcher that holds a context. Every other process that is listed meanwhile is foreign. What
/proc does not show (a daemon in a pid namespace of its own) cannot be told apart and is never called so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

_NOTES: Final = 180  # a GPU: three minutes, for markers that come late
_STALE_NS: Final = 2_000_000_000
_PEOPLE: Final = 4_096  # processes remembered


@dataclass(frozen=True)
class Seen:
    """A process as /proc shows it. A pid is reused, together with its start it is not."""

    parent: int
    started: int


Look = Callable[[int], Seen | None]


def look_in_proc(pid: int) -> Seen | None:
    """One process; None if there is none of that number here."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return Seen(int(fields[1]), int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def ancestors(pid: int, look: Look) -> frozenset[int] | None:
    """The processes above one; None if it is not visible here."""
    seen = look(pid)
    if seen is None:
        return None
    above: set[int] = set()
    while seen is not None and seen.parent > 0 and seen.parent not in above:
        above.add(seen.parent)
        seen = look(seen.parent)
    return frozenset(above)


def foreign(
    pids: Collection[int], own: Collection[int], above: Mapping[int, frozenset[int] | None]
) -> set[int]:
    """Those of the listed `pids` that are neither `own`, nor below nor above one of them.

    `above`: the ancestors of each, None where it is not visible: then nothing is told of it. Nothing is
    told without any own pid either (a client in another pid namespace, whose pid the kernel does not give).
    """
    if not own:
        return set()
    kin = set(own).union(*(above.get(pid) or () for pid in own))
    found = set()
    for pid in pids:
        line = above.get(pid)
        if line is not None and pid not in kin and line.isdisjoint(own):
            found.add(pid)
    return found


@dataclass(frozen=True)
class _Person:
    """What is remembered of a process; it outlives the process, and the parents that it loses."""

    started: int
    above: frozenset[int]
    looked: int  # in which round


class _Note(NamedTuple):
    """NVML's list of one GPU at an instant."""

    t_ns: int
    pids: frozenset[int]
    users: frozenset[int]  # and all above them


class Neighbours:
    """The recent lists of each GPU, and who descends from whom."""

    def __init__(self, look: Look = look_in_proc) -> None:
        self._look = look
        self._notes: dict[int, deque[_Note]] = {}
        self._people: dict[int, _Person] = {}
        self._round = 0

    def note(self, device: int, pids: frozenset[int], t_ns: int) -> frozenset[int]:
        """The compute processes on a GPU at an instant; they and all above them.

        Looks at each in /proc while it lives.
        """
        self._round += 1
        users = pids.union(*(self._above(pid) or () for pid in pids))
        self._notes.setdefault(device, deque(maxlen=_NOTES)).append(_Note(t_ns, pids, users))
        if len(self._people) > _PEOPLE:
            oldest = self._round - _NOTES
            self._people = {pid: one for pid, one in self._people.items() if one.looked > oldest}
        return users

    def seen_with(
        self, stage_pid: int | None, run_pids: Collection[int], device: int, t0_ns: int, t1_ns: int
    ) -> set[int]:
        """Foreign pids listed on the device between two instants.

        Where no list falls between them, the last one before counts, if it is no older than 2 s, for
        the processes that still live: one that has ended may have done so before.
        """
        own = set(run_pids) if stage_pid is None else {stage_pid, *run_pids}
        if not own:
            return set()
        inside: set[int] = set()
        lists = 0
        for note in reversed(self._notes.get(device, ())):
            if note.t_ns > t1_ns:
                continue
            if note.t_ns >= t0_ns:
                lists += 1
                inside |= note.pids
                continue
            if not lists and t0_ns - note.t_ns <= _STALE_NS:
                inside |= {pid for pid in note.pids if self._lives(pid)}
            break
        inside -= own
        if not inside:
            return set()
        return foreign(inside, own, {pid: self._above(pid) for pid in inside | own})

    @property
    def any(self) -> bool:
        """Whether NVML has listed a process at all."""
        return bool(self._notes)

    def lists(self, pid: int | None, device: int, t0_ns: int, t1_ns: int) -> bool:
        """Whether a process, or one that descends from it, was listed on the device between two instants.

        Where no list falls between them, the last one before counts, if it is no older than 2 s.
        """
        lists = 0
        for note in reversed(self._notes.get(device, ())):
            if note.t_ns > t1_ns:
                continue
            if note.t_ns < t0_ns:
                return not lists and t0_ns - note.t_ns <= _STALE_NS and pid in note.users
            if pid in note.users:
                return True
            lists += 1
        return False

    def _above(self, pid: int) -> frozenset[int] | None:
        known = self._people.get(pid)
        if known is not None and known.looked == self._round:
            return known.above
        seen = self._look(pid)
        if seen is None:
            return known.above if known is not None else None
        above = ancestors(pid, self._look) or frozenset()
        if known is not None and known.started == seen.started:
            above |= known.above  # a parent that ends hands its children on
        self._people[pid] = _Person(seen.started, above, self._round)
        return above

    def _lives(self, pid: int) -> bool:
        seen, known = self._look(pid), self._people.get(pid)
        return seen is not None and known is not None and seen.started == known.started
