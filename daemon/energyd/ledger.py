"""What have the sources said? Device numbers, sample logs, gaps and how they are bridged, counter reads.

Turns source events (CLOCK_BOOTTIME) into rows in store time. A step longer than the device's allowed gap
is a gap; where the device has a hardware counter, the samples behind the gap wait (at most HOLD_NS) for
the next counter read, which says what the gap cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from energyd.accounting import CounterTrack
from energyd.attribution import Known
from energyd.bridging import bridge_uj, leapt
from energyd.energy import Appended, DeviceLog, Edge, Totals, trapezoid_uj
from energyd.roughness import I32, I64
from energyd.sensing import counter_lag_ns, counter_period_ns, sensing_of
from energyd.sources import Break, Condition, CounterRead, DeviceInfo, DomainInfo, PowerSamples, Share
from energyd.stages import Anchor
from energyd.store.load import StoredDevice
from energyd.timeline import Timeline

HOLD_NS: Final = 10_000_000_000
"""How long samples wait behind a gap for a counter read (one device a second is read, round robin)."""

PATIENCE_NS: Final = 5_000_000_000
PATIENT: Final = "conditions"
"""Rows that explain outliers: nobody waits for them, and a statement of their own in each second's commit
costs as much for one row as for five seconds'."""

Row = tuple[Any, ...]


@dataclass
class _Hold:
    """Samples behind a gap whose energy is not known yet."""

    reason: str
    reset: bool
    since_ns: int
    resets: int  # of the counter, when the gap began
    t_ns: list[I64] = field(default_factory=list)
    power_mw: list[I32] = field(default_factory=list)


@dataclass
class _Device:
    """One device's books."""

    log: DeviceLog
    track: CounterTrack = field(default_factory=CounterTrack)
    hold: _Hold | None = None
    soft_reason: str | None = None  # why the next long step will have been long
    gap_ns: tuple[int, int] = (0, 0)  # where the last gap was, by its samples
    soft_t_ns: int = 0  # when that was said: samples from before do not refute it
    inherited: bool = False  # its newest sample is an earlier daemon's
    forced: bool = False  # the next step is a gap however short, and the counter may not bridge it
    reads: list[CounterRead] = field(default_factory=list)  # store time, not yet beside the integral

    @property
    def resets(self) -> int:
        """Of the counter, since the store began."""
        return self.log.totals.resets

    @property
    def anchored(self) -> bool:
        """Whether its last counter read can begin a bridge: no hole and no reset since."""
        reads = self.track.reads
        return bool(reads) and reads[-1].segment == self.log.totals.holes + self.resets


class Ledger:
    """Every device of this store that a source speaks of."""

    def __init__(self, timeline: Timeline, stored: Mapping[int, StoredDevice], restart: str) -> None:
        self._timeline = timeline
        self._numbers = {s.uuid: device for device, s in stored.items()}
        self._restart = restart  # daemon_down, or reboot: then the counter starts anew too
        self._books: dict[int, _Device] = {}
        self.infos: dict[int, DeviceInfo] = {}
        self.domain_infos: dict[str, DomainInfo] = {}
        self.logs: dict[int, DeviceLog] = {}
        self.known: dict[int, Known] = {}
        self.tracks: dict[int, CounterTrack] = {}
        self.rows: dict[str, list[Row]] = {}
        self.appended: list[tuple[int, Appended]] = []
        self.moved = False  # whether a device's totals have changed
        self.patience_ns = PATIENCE_NS  # 0 at the end: all that is here
        self._patient_until_ns = 0
        self.gaps = 0
        self.gap_reasons: Counter[str] = Counter()
        self.samples = 0
        for device, s in stored.items():
            self._open_books(device, DeviceLog(device, s.max_step_ns, s.totals))
            self.logs[device].preload(s.t_ns, s.power_mw, s.cum_uj, s.gaps)

    def declare(self, devices: Sequence[DeviceInfo], domains: Sequence[DomainInfo], now_ns: int) -> bool:
        """Take note of what a source found. True if anything is new, which is then written."""
        changed = False
        for info in devices:
            device = self._numbers.setdefault(info.uuid, len(self._numbers))
            if self.infos.get(device) == info:
                continue
            changed = True
            self.infos[device] = info
            if device not in self._books:
                self._open_books(device, DeviceLog(device, info.max_step_ns, Totals()))
            self.logs[device].max_step_ns = info.max_step_ns
            self.logs[device].sensing = sensing_of(info)
            index = info.index
            if index is None and info.domain == "gpu":
                index = sum(k.domain == "gpu" for k in self.known.values() if k.device != device)
            self.known[device] = Known(device, info.uuid, info.domain, info.name, index, info.mig)
            self._row(
                "devices",
                (device, now_ns, info.uuid, info.domain, info.name, info.source, info.origin, info.period_ns,
                 info.max_step_ns, info.lag_ns, info.depth, info.power_limit_mw, info.driver, info.accuracy),
            )  # fmt: skip
            for s in info.sensors:
                self._row(
                    "sensors",
                    (device, now_ns, s.sensor, s.state, s.period_ns, s.lag_ns, s.depth, s.call_us,
                     s.call_max_us, s.agreement, s.reason),
                )  # fmt: skip
        for domain in domains:
            if self.domain_infos.get(domain.domain) != domain:
                changed = True
                self.domain_infos[domain.domain] = domain
                self._row("domains", (now_ns, domain.domain, domain.state, domain.source, domain.reason))
        return changed

    def samples_in(self, e: PowerSamples, now_ns: int) -> None:
        """New samples of one device."""
        device = self._numbers[e.uuid]
        book = self._books[device]
        t_ns = e.t_ns + self._timeline.offset_ns
        newest = book.hold.t_ns[-1][-1] if book.hold and book.hold.t_ns else book.log.last_t_ns
        fresh = t_ns > (-1 if newest is None else newest)  # a ring drained twice repeats itself
        if not fresh.any():
            return
        power = e.power_mw[fresh]
        energy = None if e.energy_uj is None else e.energy_uj[fresh]
        self._take(device, book, t_ns[fresh], power, energy, now_ns)

    def counter_in(self, e: CounterRead) -> None:
        """A read of the hardware counter; it waits until samples surround it."""
        device = self._numbers[e.uuid]
        # What is read was right at the counter's last step: on average half of one ago.
        t_ns = self._timeline.to_store(e.t_ns) - counter_lag_ns(self.infos[device])
        self._books[device].reads.append(CounterRead(e.uuid, t_ns, e.energy_mj))

    def condition_in(self, e: Condition) -> int:
        """Write what explains outliers; the device's number."""
        device = self._numbers[e.uuid]
        t_ns = self._timeline.to_store(e.t_ns)
        self._row(
            "conditions",
            (device, t_ns, e.temperature_c, e.sm_clock_mhz, e.power_limit_mw, e.throttle_bits),
        )
        return device

    def share_in(self, e: Share) -> None:
        """How busy a process keeps a GPU that it shares."""
        t_ns = self._timeline.to_store(e.t_ns)
        self._row("shares", (self._numbers[e.uuid], t_ns, e.pid, e.sm_percent))

    def break_in(self, e: Break) -> None:
        """Sampling was interrupted; remembered until the next sample shows how long."""
        book = self._books.get(self._numbers.get(e.uuid, -1))
        if book is None:
            return
        if e.counter_reset:
            book.log.totals.resets += 1
            book.reads.clear()  # from before the reset, and no longer to be told from those after it
            if book.hold is not None:  # seen only now, behind the gap: that gap has it
                book.hold.reset, book.hold.reason = True, e.reason
                return
            book.forced, book.soft_reason = book.forced or e.torn, e.reason
        if book.soft_reason is None:
            book.soft_reason = e.reason
        book.soft_t_ns = self._timeline.to_store(e.t_ns)

    def settle(self, now_ns: int) -> None:
        """Bridge what can be bridged, and set counter reads beside the integral."""
        for device, book in self._books.items():
            if book.hold is not None:
                self._settle_hold(device, book, now_ns)
            if book.hold is None:
                self._settle_reads(device, book)

    def forget_reads(self) -> None:
        """Let go of the counter reads from before the samples in memory."""
        for book in self._books.values():
            if (first_ns := book.log.first_t_ns) is not None:
                book.track.forget(first_ns)

    def take_rows(self) -> tuple[dict[str, list[Row]], list[tuple[int, Appended]], dict[int, Totals]]:
        """What the next commit is to write: the totals of all devices, if one has moved."""
        rows, appended = self.rows, self.appended
        totals = {d: log.totals for d, log in self.logs.items()} if self.moved else {}
        self.rows, self.appended, self.moved = {}, [], False
        now_ns = self._timeline.now_ns()
        if self.patience_ns and now_ns < self._patient_until_ns:
            self.rows = {PATIENT: rows.pop(PATIENT)} if PATIENT in rows else {}
        else:
            self._patient_until_ns = now_ns + self.patience_ns
        return rows, appended, totals

    # ---- helpers -------------------------------------------------------------------------------------

    def _open_books(self, device: int, log: DeviceLog) -> None:
        totals = log.totals
        book = _Device(log)
        if totals.t_ns is not None:
            book.soft_reason, book.inherited = self._restart, True
        if totals.read_t_ns is not None and self._restart != "reboot":
            book.track.reads.append(
                Anchor(
                    totals.read_t_ns, totals.read_mj, totals.read_uj, totals.holes + totals.resets,
                    totals.read_rough, totals.read_bridge_j2, totals.read_p_w, totals.read_range_w,
                )
            )  # fmt: skip
        self._books[device] = book
        self.logs[device], self.tracks[device] = book.log, book.track

    def _take(
        self, device: int, book: _Device, t_ns: I64, power_mw: I32, energy_uj: I64 | None, now_ns: int
    ) -> None:
        """Append samples, opening a gap at each step that is too long."""
        while len(t_ns):
            if book.hold is not None:
                book.hold.t_ns.append(t_ns)
                book.hold.power_mw.append(power_mw)
                return
            last = book.log.last_t_ns
            steps = np.diff(t_ns) if last is None else np.diff(t_ns, prepend=last)
            long = np.flatnonzero(steps > book.log.max_step_ns)
            cut = len(t_ns) if not len(long) else int(long[0]) + (last is None)
            # A daemon that was not there is a gap, however short: only a ring has what nobody looked at.
            unwatched = book.inherited and self.infos[device].source != "ring"
            if (book.forced or unwatched) and last is not None:
                cut = 0
            book.inherited = False
            if cut:
                part = None if energy_uj is None else energy_uj[:cut]
                self._note(device, book.log.append(t_ns[:cut], power_mw[:cut], part))
                if t_ns[cut - 1] > book.soft_t_ns:
                    book.soft_reason = None
                t_ns, power_mw = t_ns[cut:], power_mw[cut:]
                energy_uj = None if energy_uj is None else energy_uj[cut:]
                continue
            reason, forced = book.soft_reason or "late", book.forced
            book.soft_reason, book.forced = None, False
            self._settle_reads(device, book)  # a bridge begins at the newest read
            if not forced and energy_uj is None and book.anchored:
                book.hold = _Hold(reason, forced, now_ns, book.resets)
                continue
            # RAPL's own counter tells what the step cost, unless the step began in another daemon.
            own = energy_uj is not None and not forced and reason == "late"
            bridged = int(energy_uj[0]) if own and energy_uj is not None else None
            self._end_gap(device, book, int(t_ns[0]), int(power_mw[0]), reason, bridged)
            t_ns, power_mw = t_ns[1:], power_mw[1:]
            energy_uj = None if energy_uj is None else energy_uj[1:]

    def _settle_hold(self, device: int, book: _Device, now_ns: int) -> None:
        hold = book.hold
        assert hold is not None
        if not hold.t_ns:
            return
        t_ns, power_mw = np.concatenate(hold.t_ns), np.concatenate(hold.power_mw)
        before = book.track.reads[-1]
        step_ns = counter_period_ns(self.infos[device])
        # A read at the first sample tells of half a counter's step before it. One in or behind a further
        # gap tells of both together, and not of this one.
        earliest = max(int(t_ns[0]) - step_ns, (book.log.last_t_ns or 0) + 1)
        more = np.flatnonzero(np.diff(t_ns) > book.log.max_step_ns)
        latest = t_ns[more[0]] if len(more) else t_ns[-1]
        reads = [] if hold.reset else book.reads
        after = next((r for r in reads if earliest <= r.t_ns <= latest), None)
        bridged, bridge_j2 = None, 0.0
        if after is not None and after.energy_mj >= before.energy_mj:
            behind = trapezoid_uj(t_ns, power_mw, after.t_ns) if after.t_ns >= t_ns[0] else 0
            behind -= int(power_mw[0]) * max(int(t_ns[0]) - after.t_ns, 0) // 1_000_000
            ahead = book.log.totals.cum_uj - before.cum_uj
            bridged = bridge_uj(
                (after.energy_mj - before.energy_mj) * 1000 - ahead - behind,
                int(t_ns[0]) - (book.log.last_t_ns or 0), max(book.log.totals.power_mw, int(power_mw.max())),
                reason=hold.reason, limit_mw=self.infos[device].power_limit_mw,
                elapsed_ns=after.t_ns - before.t_ns, after_mj=after.energy_mj,
            )  # fmt: skip
            after_w = float(np.interp(after.t_ns, t_ns, power_mw)) / 1000
            swing_w = float(power_mw.max() - power_mw.min()) / 1000
            at_reads_w2 = before.p_w**2 + before.range_w**2 + after_w**2 + swing_w**2
            bridge_j2 = (step_ns / 1e9) ** 2 / 12 * at_reads_w2
        elif after is not None:
            hold.reason = "reset"
            book.log.totals.resets += 1
        elif now_ns < hold.since_ns + HOLD_NS and book.resets == hold.resets and not len(more):
            return
        book.hold = None
        self._end_gap(device, book, int(t_ns[0]), int(power_mw[0]), hold.reason, bridged, bridge_j2)
        self._take(device, book, t_ns[1:], power_mw[1:], None, now_ns)

    def _settle_reads(self, device: int, book: _Device) -> None:
        totals = book.log.totals
        while book.reads:
            read = book.reads[0]
            edge = book.log.edge_at(read.t_ns)
            if edge is None and totals.t_ns is not None:
                return
            book.reads.pop(0)
            in_gap = book.gap_ns[0] < read.t_ns < book.gap_ns[1]  # the integral only guesses the shape of one
            cum = edge.e_uj if isinstance(edge, Edge) and not in_gap else None
            self._row("counters", (device, read.t_ns, read.energy_mj, cum))
            if cum is not None and isinstance(edge, Edge):
                if book.track.reads and self._broke(device, book.track.reads[-1], read):
                    book.log.totals.resets += 1
                book.track.reads.append(Anchor.at(read.energy_mj, edge, edge.holes + book.resets))
                totals.read_t_ns, totals.read_mj, totals.read_uj = read.t_ns, read.energy_mj, cum
                totals.read_rough, totals.read_bridge_j2 = edge.rough, edge.bridge_j2
                totals.read_p_w, totals.read_range_w = edge.p_w, edge.range_w
                self.moved = True

    def _broke(self, device: int, before: Anchor, read: CounterRead) -> bool:
        """Whether the counter went back, or ahead further than the board can have drawn."""
        advance_uj = (read.energy_mj - before.energy_mj) * 1000
        limit_mw = self.infos[device].power_limit_mw
        return advance_uj < 0 or leapt(advance_uj, read.t_ns - before.t_ns, limit_mw)

    def _end_gap(
        self, device: int, book: _Device, t_ns: int, p_mw: int, reason: str, bridged: int | None,
        bridge_j2: float = 0.0,
    ) -> None:  # fmt: skip
        added = book.log.append_after_gap(t_ns, p_mw, reason, bridged, bridge_j2)
        gap = added.gaps[0]
        book.gap_ns = gap.t0_ns, gap.t1_ns
        if bridged is None:
            book.log.totals.read_t_ns = None  # from before a hole: no bridge may begin there
        self._row("gaps", (device, gap.t0_ns, gap.t1_ns, gap.reason, gap.bridged_uj))
        self.gaps += 1
        self.gap_reasons[gap.reason] += 1
        self._note(device, added)

    def _note(self, device: int, added: Appended) -> None:
        self.appended.append((device, added))
        self.moved = True
        self.samples += len(added.t_ns)

    def _row(self, table: str, row: Row) -> None:
        self.rows.setdefault(table, []).append(row)
