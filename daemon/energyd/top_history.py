"""How did one device's power run over the last minute, in as many columns as there is room for?"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

BUCKET_NS: Final = 500_000_000
SPAN_S: Final = 60
BUCKETS: Final = SPAN_S * 1_000_000_000 // BUCKET_NS


class PowerHistory:
    """Means over half seconds, for one minute: 120 pairs of numbers, however fast the sensor is."""

    def __init__(self) -> None:
        self._sums: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def add(self, t_ns: list[int], power_mw: list[int]) -> None:
        """New samples. One sent again to a late subscriber moves a half second's mean, never an energy."""
        for t, p in zip(t_ns, power_mw, strict=True):
            bucket = t // BUCKET_NS
            total, n = self._sums.get(bucket, (0, 0))
            self._sums[bucket] = (total + p, n + 1)
        while len(self._sums) > BUCKETS + 2:
            self._sums.popitem(last=False)

    def curve_mw(self, columns: int, end_ns: int, hold_ns: int) -> list[float | None]:
        """Mean power per column over the minute up to `end_ns`, oldest first; None where nothing is known.

        A half second without a sample keeps the value before it, as long as that is at most
        `hold_ns` old: a sensor of one value per second has no holes, a dead one has.
        """
        last = end_ns // BUCKET_NS
        hold = max(0, hold_ns // BUCKET_NS)
        held: float | None = None
        held_at = last - BUCKETS - hold - 1
        values: list[float | None] = []
        for bucket in range(last - BUCKETS - hold, last + 1):
            if bucket in self._sums:
                total, n = self._sums[bucket]
                held, held_at = total / n, bucket
            if bucket > last - BUCKETS:
                values.append(held if held is not None and bucket - held_at <= hold else None)
        columns = min(columns, BUCKETS)
        means: list[float | None] = []
        for i in range(columns):
            part = values[i * BUCKETS // columns : (i + 1) * BUCKETS // columns]
            known = [v for v in part if v is not None]
            means.append(sum(known) / len(known) if known else None)
        return means
