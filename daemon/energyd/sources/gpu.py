"""What do the NVIDIA GPUs of this machine take, whatever happens to driver, library or a single GPU?

`GpuSource` finds them, samples each by the reader that its probe chose, and adds once a second the
conditions and one read of an energy counter (3 ms: one GPU after the other, never more). A GPU that
fails is retried on its own, with back-off, while the others go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from energyd.sources import Changed, DeviceInfo, DomainInfo, Event, SourceError
from energyd.sources.gpu_device import Gpu
from energyd.sources.gpu_probe import probe
from energyd.sources.gpu_readers import make_reader
from energyd.sources.nvml import (
    DRIVER_NOT_LOADED,
    LIBRARY_NOT_FOUND,
    UNINITIALIZED,
    VERSION_MISMATCH,
    Nvml,
    NvmlError,
)
from energyd_client.clock import now_ns

log = logging.getLogger("energyd")

_SECOND: Final = 1_000_000_000
_LARGEST_SHARE: Final = 0.8  # of the ring between two drains: the rest is for a late sampler


class GpuSource:
    """All NVIDIA GPUs, as one `Source`.

    `interval_s` in the call is the drain period of rings; the attribute falls to the period of a polled
    field where a GPU has no ring.
    """

    name = "nvml"

    def __init__(self, interval_s: float = 0.5):
        if not interval_s > 0:
            raise SourceError(f"--interval {interval_s:g}: must be above 0.\nTry --interval 0.5.")
        self.interval_s = interval_s
        self._drain_s = interval_s
        self._nvml = Nvml()
        self._gpus: dict[str, Gpu] = {}
        self._powerless: set[str] = set()  # GPUs that have no power reading at all: not probed twice
        self._domain = DomainInfo(domain="gpu", state="absent", reason="not looked for yet")
        self._stuck: DomainInfo | None = None  # what holds instead while only a restart can help
        self._discover_ns: int | None = None  # when to look again for what is missing; None: nothing is
        self._discoveries = 0
        self._nvml_up = True  # False: a restart has failed, and every call is refused
        self._restarted_ns = 0
        self._restarts = 0
        self._second_ns = 0
        self._counter_turn = 0

    def open(self) -> None:
        """Find and probe all GPUs (at most 1.5 s). Raises SourceError if the interval outlasts a ring."""
        self._discover()
        for gpu in self._gpus.values():
            info = gpu.reader.info
            span_s = (info.depth or 0) * info.period_ns / 1e9
            if info.depth and self._drain_s > _LARGEST_SHARE * span_s:
                self.close()
                raise SourceError(
                    f"--interval {self._drain_s:g} is too long for {info.name}: its driver keeps "
                    f"{info.depth} samples, {span_s:.2f} s, and samples would be lost.\n"
                    f"Choose --interval {math.floor(_LARGEST_SHARE * span_s * 100) / 100:g} or less."
                )

    def devices(self) -> Sequence[DeviceInfo]:
        """The GPUs in service, in NVML's order."""
        return sorted((gpu.reader.info for gpu in self._gpus.values()), key=lambda info: info.index or 0)

    def domains(self) -> Sequence[DomainInfo]:
        """The domain `gpu`."""
        return [self._domain if self._stuck is None else self._stuck]

    def read(self) -> Iterable[Event]:
        """What is new on every GPU that is due."""
        now = now_ns()
        events: list[Event] = []
        if self._discover_ns is not None and now >= self._discover_ns and self._discover():
            events.append(Changed(now))
        for gpu in list(self._gpus.values()):
            if now >= gpu.next_ns:
                events += self._sample(gpu, now)
            if gpu.counter_due and not gpu.failures:
                events += gpu.read_counter(self._nvml)
        if self._get_stuck():
            events.append(Changed(now))
        well = [gpu for gpu in self._gpus.values() if not gpu.failures]
        if len(well) == len(self._gpus):
            self._restarts = 0
        if now >= self._second_ns:
            self._second_ns = now + _SECOND - self._early_ns()
            for gpu in well:
                events += gpu.condition(self._nvml)
            counted = [gpu for gpu in well if gpu.has_counter]
            if counted:
                self._counter_turn += 1
                events += counted[self._counter_turn % len(counted)].read_counter(self._nvml)
        return events

    def close(self) -> None:
        """Let go of NVML."""
        self._nvml.stop()
        self._gpus.clear()
        self._powerless.clear()
        self._discover_ns, self._discoveries = None, 0

    # ---- finding -------------------------------------------------------------------------------

    def _discover(self) -> bool:
        """Look for GPUs that are not in service; True if that changed devices or domain."""
        before = (self._domain, set(self._gpus))
        missing: dict[str, NvmlError] = {}
        refusal: NvmlError | None = None
        notes: list[str] = []
        try:
            found = self._enumerate(missing)
            probed = probe(self._nvml, found)
            notes = probed.notes
            for uuid, info in probed.devices.items():
                self._gpus[uuid] = Gpu(found[uuid][1], make_reader(info, self._drain_s, now_ns()))
            missing |= probed.refused
            self._powerless |= probed.powerless
        except NvmlError as error:
            refusal = error
        self._domain = self._describe(refusal, missing, notes)
        self._pace()
        # A machine without GPUs is asked again too: a driver may be loaded later, and asking is cheap.
        if refusal or set(missing) - self._powerless or not self._gpus:
            self._discover_ns = now_ns() + (_SECOND << min(self._discoveries, 6))
            self._discoveries += 1
        else:
            self._discover_ns, self._discoveries = None, 0
        return before != (self._domain, set(self._gpus))

    def _enumerate(self, missing: dict[str, NvmlError]) -> dict[str, tuple[int, Any]]:
        """{uuid: (index, handle)} of the GPUs not yet in service. Raises NvmlError without NVML."""
        if not self._gpus:
            self._nvml.stop()
            self._nvml.start()
        found: dict[str, tuple[int, Any]] = {}
        for index in range(self._nvml.count()):
            try:
                uuid, handle = self._nvml.by_index(index)
            except NvmlError as error:
                missing[f"GPU {index}"] = error
                continue
            if uuid not in self._gpus and uuid not in self._powerless:
                found[uuid] = (index, handle)
        return found

    def _describe(
        self, refusal: NvmlError | None, missing: dict[str, NvmlError], notes: list[str]
    ) -> DomainInfo:
        why = "; ".join([f"{which}: {error}" for which, error in missing.items()] + notes)
        if self._gpus:
            source = ", ".join(sorted({gpu.reader.info.source for gpu in self._gpus.values()}))
            return DomainInfo(domain="gpu", state="measured", source=source, reason=why or None)
        if refusal is not None:
            absent = refusal.code in (LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED)
            return DomainInfo(domain="gpu", state="absent" if absent else "unreadable", reason=str(refusal))
        if missing or self._powerless:
            why = why or f"no power reading on {', '.join(sorted(self._powerless))}"
            return DomainInfo(domain="gpu", state="unreadable", reason=why)
        return DomainInfo(domain="gpu", state="absent", reason="NVML lists no GPU")

    def _pace(self) -> None:
        self.interval_s = min([self._drain_s, *(gpu.reader.every_ns / 1e9 for gpu in self._gpus.values())])

    def _early_ns(self) -> int:
        """A call a little early does the work that is due; else that would wait for a whole further beat."""
        return int(self.interval_s * 1e9 / 4)

    # ---- sampling and mending ------------------------------------------------------------------

    def _sample(self, gpu: Gpu, now: int) -> list[Event]:
        events: list[Event] = []
        try:
            if gpu.failure is not None:
                events += self._mend(gpu, gpu.failure, now)
            return events + gpu.sample(self._nvml, now, self._early_ns())
        except NvmlError as error:
            return events + gpu.failed(error, now, self._early_ns())

    def _mend(self, gpu: Gpu, failure: NvmlError, now: int) -> list[Event]:
        """Before reading a GPU that failed: a fresh handle, in the end a fresh NVML. Raises NvmlError."""
        if failure.code == UNINITIALIZED:
            self._restart_nvml(now, 3)
        elif not gpu.unsupported and now - gpu.since_ns > self._restart_after_ns():
            self._restart_nvml(now, 9)
        gpu.handle = self._nvml.by_uuid(gpu.uuid)
        if gpu.gone:
            gpu.reader.restart(now)
        if not (gpu.unsupported and gpu.failures > 4 and gpu.silent(now)):
            return []
        # What the driver has given up (MIG switched on, say) may have left another source.
        probed = probe(self._nvml, {gpu.uuid: (gpu.reader.info.index or 0, gpu.handle)})
        if gpu.uuid in probed.refused:
            raise probed.refused[gpu.uuid]
        reader = make_reader(probed.devices[gpu.uuid], self._drain_s, now_ns())
        reader.last_ns = max(reader.last_ns, gpu.reader.last_ns)
        gpu.reader = reader
        self._domain = self._describe(None, {}, probed.notes)
        self._pace()
        return [Changed(now_ns())]

    def _restart_after_ns(self) -> int:
        """How long a GPU may fail before NVML itself is suspected: longer while another one is well.

        A restart takes NVML from the healthy ones too, and might not bring it back.
        """
        return (10 if any(not gpu.failures for gpu in self._gpus.values()) else 2) * _SECOND

    def _get_stuck(self) -> bool:
        """Whether only a new process can help, or no longer: a library that the driver's upgrade left behind.

        It stays loaded for the life of the process (the binding never unloads it). We do not end ourselves
        for that: a private daemon has nobody who starts it again, the CPU is still measured and markers are
        still stored. The domain says what to do, in the store and in `energyd status`.
        """
        before = self._stuck
        refusals = [gpu.failure for gpu in self._gpus.values() if gpu.failure and gpu.silent(now_ns())]
        left = next((error for error in refusals if error.code == VERSION_MISMATCH), None)
        if left is None:
            # While NVML is being tried again it may refuse otherwise for a moment.
            self._stuck = self._stuck if len(refusals) == len(self._gpus) > 0 else None
        else:
            self._stuck = DomainInfo(domain="gpu", state="unreadable", reason=str(left))
            if before is None:
                log.error("%s", left)
        return before != self._stuck

    def _restart_nvml(self, now: int, patience: int) -> None:
        """Shut NVML down and start it again, whichever GPU asks; every handle is renewed.

        Each time in a row waits twice as long, up to 2**patience seconds: without persistence mode a
        shutdown may let the driver unload, which sets the healthy GPUs' counters back. One that failed
        left nothing to harm: it is tried again as often as a GPU asks, which waits longer each time.
        """
        if self._nvml_up:
            if now - self._restarted_ns < _SECOND << min(self._restarts, patience):
                return
            self._restarted_ns = now
            self._restarts += 1
        self._nvml.stop()
        self._nvml_up = False
        self._nvml.start()
        self._nvml_up = True
        for gpu in self._gpus.values():
            try:
                gpu.handle = self._nvml.by_uuid(gpu.uuid)
            except NvmlError:
                pass  # its next read fails with the old handle and is retried
