"""What did each stage of this program cost in energy? All that a training script needs to say for it.

    import energyd_client as energy

    with energy.run("kd-1b", pipeline="kd", student="1B", seed=0) as run:
        with run.stage("student.train") as stage:
            stage.count(label=4096, positions=8192)
        run.metric("exact_match", 0.81, n=700)

Without a daemon the program runs unmeasured, with one warning. ENERGYD_DISABLE=1 makes all of it
nothing. Importing this imports neither zmq nor anything heavy; the first marker imports zmq.
"""

from __future__ import annotations

from energyd_client import lifetime as _lifetime
from energyd_client.notes import losses
from energyd_client.runs import Run, run
from energyd_client.stages import Stage, stage
from energyd_client.version import __version__

__all__ = ["Run", "Stage", "__version__", "flush", "losses", "run", "stage"]


def flush(timeout_s: float = 5.0) -> bool:
    """Wait until the daemon has stored every marker so far; True if it has, within `timeout_s` seconds.

    Not needed for safety: markers are kept on disk, and the end of the program waits half a second.
    True as well when there was nothing to store.
    """
    box = _lifetime.opened()
    return True if box is None else box.flush(timeout_s)
