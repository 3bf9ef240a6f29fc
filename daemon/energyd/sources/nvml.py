"""How does NVML say it? The only file that speaks NVML (nvidia-ml-py, `import pynvml`).

It turns NVML's ways into ours: CLOCK_REALTIME µs into CLOCK_BOOTTIME ns, unions into integers, its
exception (unhashable, one class per code) into `NvmlError` with a number. It decides nothing.
The import happens in `start`, so that a machine without driver or package can load this module.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from energyd_client.clock import now_ns

UNINITIALIZED: Final = 1
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
RESET_REQUIRED: Final = 16
OPERATING_SYSTEM: Final = 17
VERSION_MISMATCH: Final = 18
NO_DATA: Final = 21

LACKING: Final = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
"""Refusals that mean: there is no such reading here. Any other one is about now."""

_WORDS: Final = {
    UNINITIALIZED: "NVML was shut down",
    NOT_SUPPORTED: "not supported",
    NO_PERMISSION: "no permission for /dev/nvidia*",
    DRIVER_NOT_LOADED: "NVIDIA driver not loaded",
    LIBRARY_NOT_FOUND: "no NVIDIA driver here: libnvidia-ml.so.1 not found",
    FUNCTION_NOT_FOUND: "this driver lacks the call",
    GPU_IS_LOST: "GPU is lost",
    RESET_REQUIRED: "GPU needs a reset",
    OPERATING_SYSTEM: "the operating system blocks the device",
    VERSION_MISMATCH: "driver and library versions differ: restart energyd after a driver upgrade",
    999: "unknown error",
}

# The union's member that holds a value, by nvmlValueType_t. Reading another one truncates or yields
# rubbish, and drivers differ in which they use for power.
_MEMBER: Final = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}

# The same members as numpy reads them.
_KIND: Final = {
    "dVal": "<f8", "uiVal": "<u4", "ulVal": "<u8", "ullVal": "<u8", "sllVal": "<i8", "siVal": "<i4",
    "usVal": "<u2",
}  # fmt: skip

_TOTAL_POWER_SAMPLES: Final = 0
_POWER_AVERAGE: Final = 185
_POWER_INSTANT: Final = 186
_TEMPERATURE_GPU: Final = 0
_CLOCK_SM: Final = 1
_LARGEST_PID: Final = 1 << 22  # Linux's own limit


class NvmlError(Exception):
    """NVML refused a call. `code` is its nvmlReturn_t."""

    def __init__(self, code: int, call: str):
        super().__init__(f"{_WORDS.get(code, 'NVML error')} (NVML {code} from {call})")
        self.code = code


@dataclass(frozen=True)
class RingDrain:
    """New samples of the driver's ring, oldest first, and the clocks beside the call."""

    stamp_us: NDArray[np.int64]  # CLOCK_REALTIME, the driver's own stamps
    t_ns: NDArray[np.int64]  # the same instants on CLOCK_BOOTTIME
    power_mw: NDArray[np.int64]
    read_ns: int  # CLOCK_BOOTTIME of the call
    offset_ns: int  # CLOCK_BOOTTIME less CLOCK_REALTIME at the call: a jump means that the wall clock stepped


@dataclass(frozen=True)
class PolledPower:
    """Instant (25 ms window on an H100) and average (1 s) power; the driver's refusal where it has none.

    `stand_in`: the average is nvmlDeviceGetPowerUsage's, for want of field 185.
    """

    read_ns: int
    instant_mw: int | NvmlError
    average_mw: int | NvmlError
    stand_in: bool = False


@dataclass(frozen=True)
class ProcessUse:
    """How busy one process kept the GPU's multiprocessors up to an instant."""

    pid: int  # as the host numbers it
    stamp_us: int  # CLOCK_REALTIME, the driver's own stamp
    t_ns: int  # the same instant on CLOCK_BOOTTIME
    sm_percent: int


def clock_pair() -> tuple[int, int]:
    """(CLOCK_BOOTTIME ns, CLOCK_BOOTTIME less CLOCK_REALTIME ns), the tightest of three brackets.

    The wall clock is read between two reads of ours; a thread switch in between widens the bracket, so
    the narrowest one is the truest (under 1 µs).
    """
    best = None
    for _ in range(3):
        before = now_ns()
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after = now_ns()
        if best is None or after - before < best[0]:
            best = (after - before, (before + after) // 2, wall)
    assert best is not None
    return best[1], best[1] - best[2]


def _columns(samples: Sequence[Any], member: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Stamps, µs, and values of a ring's samples.

    The binding cuts them from one ctypes array, which is read as a whole: object by object takes ten times
    as long.
    """
    if not samples:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    kind = np.dtype(
        {"names": ["t", "v"], "formats": ["<u8", _KIND[member]], "offsets": [0, 8], "itemsize": 16}
    )
    whole = np.frombuffer(samples[0]._b_base_, kind, len(samples))
    return whole["t"].astype(np.int64), whole["v"].astype(np.int64)


class Nvml:
    """NVML in our words. Every method may raise `NvmlError`. Handles die with `stop`."""

    def __init__(self) -> None:
        self._lib: Any = None

    def start(self) -> None:
        """Load the library and initialise it. May be called again after `stop`."""
        try:
            import pynvml
        except ImportError:
            raise NvmlError(LIBRARY_NOT_FOUND, "import pynvml: install nvidia-ml-py") from None
        self._lib = pynvml
        try:
            self._call("nvmlInit")
        except NvmlError:
            self._lib = None
            raise

    def stop(self) -> None:
        """Let go of NVML. Never raises: there is nothing left to do about it."""
        if self._lib is not None:
            try:
                self._call("nvmlShutdown")
            except NvmlError:
                pass
        self._lib = None

    def _call(self, name: str, *args: Any) -> Any:
        if self._lib is None:
            raise NvmlError(UNINITIALIZED, name)
        function = getattr(self._lib, name, None)
        if function is None:  # an older nvidia-ml-py
            raise NvmlError(FUNCTION_NOT_FOUND, name)
        try:
            return function(*args)
        except self._lib.NVMLError as error:
            raise NvmlError(int(error.value), name) from None
        except self._lib.NVMLLibraryMismatchError:
            # The binding's own word, and no NVMLError, for a driver older than the call's newest version.
            raise NvmlError(FUNCTION_NOT_FOUND, name) from None

    def driver(self) -> str:
        """Driver version."""
        return str(self._call("nvmlSystemGetDriverVersion"))

    def count(self) -> int:
        """Number of GPUs."""
        return int(self._call("nvmlDeviceGetCount"))

    def by_index(self, index: int) -> tuple[str, Any]:
        """(UUID, handle) of the GPU at NVML's index (PCI order)."""
        handle = self._call("nvmlDeviceGetHandleByIndex", index)
        return str(self._call("nvmlDeviceGetUUID", handle)), handle

    def by_uuid(self, uuid: str) -> Any:
        """A fresh handle of the GPU with that UUID."""
        return self._call("nvmlDeviceGetHandleByUUID", uuid)

    def name(self, handle: Any) -> str:
        """Model."""
        return str(self._call("nvmlDeviceGetName", handle))

    def mig(self, handle: Any) -> bool:
        """Whether MIG is on; False where the part has none."""
        try:
            return bool(self._call("nvmlDeviceGetMigMode", handle)[0])
        except NvmlError as error:
            if error.code in LACKING:
                return False
            raise

    def ring(self, handle: Any, last_stamp_us: int) -> RingDrain:
        """Samples of the driver's ring later than `last_stamp_us`, mW; none is no error."""
        try:
            value_type, samples = self._call(
                "nvmlDeviceGetSamples", handle, _TOTAL_POWER_SAMPLES, last_stamp_us
            )
        except NvmlError as error:
            if error.code not in (NOT_FOUND, NO_DATA):
                raise
            value_type, samples = 1, []
        read_ns, offset_ns = clock_pair()
        stamp_us, power_mw = _columns(samples, _MEMBER.get(value_type, "ullVal"))
        return RingDrain(stamp_us, stamp_us * 1000 + offset_ns, power_mw, read_ns, offset_ns)

    def polled(self, handle: Any) -> PolledPower:
        """Fields 186 and 185 from one call; nvmlDeviceGetPowerUsage stands in for 185 on older drivers.

        Before Ampere, and on GA100, that stand-in is no average but instantaneous (NVIDIA's header); those
        parts have a ring or field 186, which come first.
        """
        before = now_ns()
        instant, average = self._fields(handle, _POWER_INSTANT, _POWER_AVERAGE)
        middle = (before + now_ns()) // 2
        stand_in = isinstance(average, NvmlError) and average.code in LACKING
        if stand_in:
            try:
                average = int(self._call("nvmlDeviceGetPowerUsage", handle))
            except NvmlError as error:
                average = error
        return PolledPower(middle, instant, average, stand_in)

    def _fields(self, handle: Any, *ids: int) -> list[int | NvmlError]:
        try:
            fields = self._call("nvmlDeviceGetFieldValues", handle, list(ids))
        except NvmlError as error:
            if error.code not in LACKING:
                raise
            return [error] * len(ids)
        # Overall success only means that some field was filled: each has its own code.
        return [
            NvmlError(int(field.nvmlReturn), f"field {number}")
            if field.nvmlReturn
            else int(getattr(field.value, _MEMBER.get(field.valueType, "ullVal")))
            for number, field in zip(ids, fields, strict=True)
        ]

    def counter(self, handle: Any) -> tuple[int, int]:
        """(CLOCK_BOOTTIME ns in the middle of the call, mJ since the driver was loaded). Slow: 3 ms."""
        before = now_ns()
        energy_mj = int(self._call("nvmlDeviceGetTotalEnergyConsumption", handle))
        return (before + now_ns()) // 2, energy_mj

    def power_limit_mw(self, handle: Any) -> int:
        """Enforced power limit."""
        return int(self._call("nvmlDeviceGetEnforcedPowerLimit", handle))

    def temperature_c(self, handle: Any) -> int:
        """GPU core."""
        return int(self._call("nvmlDeviceGetTemperature", handle, _TEMPERATURE_GPU))

    def sm_clock_mhz(self, handle: Any) -> int:
        """SM clock."""
        return int(self._call("nvmlDeviceGetClockInfo", handle, _CLOCK_SM))

    def throttle_bits(self, handle: Any) -> int:
        """Bit mask of nvmlClocksThrottleReasons. The old name: every driver exports it."""
        return int(self._call("nvmlDeviceGetCurrentClocksThrottleReasons", handle))

    def pids(self, handle: Any) -> frozenset[int]:
        """Compute processes on the GPU, as the host numbers them."""
        return frozenset(
            int(process.pid) for process in self._call("nvmlDeviceGetComputeRunningProcesses", handle)
        )

    def process_use(self, handle: Any, last_stamp_us: int | None) -> list[ProcessUse]:
        """Utilisation by process since a stamp (None: in the last second); idle processes have none.

        The driver keeps seconds of it, and averages over them all if asked since 0. Rubbish that some
        drivers give (37,100 %, a process of number 2^32 - 1) is dropped.
        """
        read_ns, offset_ns = clock_pair()
        now_us = (read_ns - offset_ns) // 1000
        since_us = now_us - 1_000_000 if last_stamp_us is None else last_stamp_us
        try:
            samples = self._call("nvmlDeviceGetProcessUtilization", handle, since_us)
        except NvmlError as error:
            # 0: the binding's word for a GPU on which nobody is busy.
            if error.code not in (0, NOT_FOUND, NO_DATA):
                raise
            return []
        return [
            ProcessUse(int(s.pid), int(s.timeStamp), int(s.timeStamp) * 1000 + offset_ns, int(s.smUtil))
            for s in samples
            if 0 < s.pid <= _LARGEST_PID and s.smUtil <= 100 and since_us < s.timeStamp <= now_us + 1_000_000
        ]
