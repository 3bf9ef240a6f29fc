"""Is every committed sample in a sealed file, a live file or the tail, also just after an hour is sealed?"""

from __future__ import annotations

import numpy as np

from energyd.energy import DeviceLog, Totals
from energyd.store import HOUR_NS
from energyd.watermarks import Watermarks

S = 1_000_000_000


def test_what_a_live_file_held_of_the_next_hour_is_in_the_tail_once_the_live_files_are_gone() -> None:
    log = DeviceLog(0, 2 * S, Totals())
    marks = Watermarks({0: log}, 0)
    t_ns = np.arange(HOUR_NS - 5 * S, HOUR_NS + 5 * S, S)
    marks.commit([(0, log.append(t_ns, np.full(len(t_ns), 100_000, np.int32)))])
    marks.export([(0, t_ns[:8], np.zeros(8, np.int32), t_ns[:8])])
    assert marks.after_export(0)[0].tolist() == t_ns[8:].tolist()
    marks.seal(HOUR_NS, 1)
    assert marks.after_export(0)[0].tolist() == t_ns[t_ns >= HOUR_NS].tolist()
