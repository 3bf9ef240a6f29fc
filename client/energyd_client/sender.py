"""How do queued markers reach the daemon, each stored once, whatever dies and comes back meanwhile?

One background thread owns the connection. It begins with Hello and Welcome; then at most `credit` markers
are unacknowledged; what is, when a connection ends, is sent again on the next one, and the daemon drops
what it has. Nobody wakes the thread for a marker, which is safe in the spool: it looks for itself. Only
who waits for it (flush, close) rings, by an eventfd that lies in one poll with the socket.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import zmq

from energyd_client import notes, reach
from energyd_client.endpoints import default_endpoint
from energyd_client.errors import DaemonTimeout, EnergydError, PermissionRefused, VersionMismatch
from energyd_client.link import WELCOME_S, Link
from energyd_client.protocol import VERSION, Ack, Bye, Refusal, Welcome, pack

if TYPE_CHECKING:
    from energyd_client.outbox import Outbox

BATCH_S: Final = 0.01
"""Pause while markers keep coming, in which more of them gather: one turn of this thread takes them all."""

LOOK_S: Final = 0.05
ALERT_S: Final = 2.0
IDLE_LOOK_S: Final = 0.2
"""How often the thread looks for markers, until ALERT_S after the last one and from then on. To be woken
would cost the caller some 20 µs more a marker; looking costs 0.3 % of a core while markers come and 0.1 %
while none do (`tests/bench/client_cost.py` prints all three)."""

YIELD_EVERY: Final = 32
"""Markers sent before the interpreter lock is offered: who marks must not wait for a whole batch."""

SILENCE_S: Final = 1.5
"""Without an ack for so long, greet again. The daemon commits each 0.5 s; slow disks took up to 1.2 s."""

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 5.0
"""Pauses between attempts to connect double from the first to the longest."""

LINGER_MS: Final = 100
"""How long the goodbye may take to leave."""

Queue = deque[tuple[int, bytes]]


class Sender:
    """Takes from `Outbox.fresh`; all its own state belongs to its thread, except where a lock is named."""

    def __init__(self, box: Outbox) -> None:
        self._box = box
        self._link = Link()
        self._flying: Queue = deque()  # sent, not acknowledged; lower numbers than …
        self._again: Queue = deque()  # … what a new connection must send again
        self._sent_seq = 0
        self._news = threading.Condition()  # guards waiting for the box's settled_seq
        self._credit = 1
        self._held = False  # the daemon is busy: what it has turned away goes out again after the next ack
        self._wait_s = FIRST_WAIT_S
        self._patience_s = SILENCE_S
        self._progress = 0.0  # monotonic: last ack, or first marker sent after all was acked
        self._acked = False  # on this connection
        self._hurried = 0  # callers waiting in flush
        self._alert_until = 0.0  # monotonic: until then markers are looked for, not waited for
        self._stop_at: float | None = None
        self._done = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="energyd-sender", daemon=True)

    # ---- called by other threads ---------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread. Raises RuntimeError if there can be no more threads."""
        self._thread.start()

    def wake(self) -> None:
        """Somebody waits."""
        os.eventfd_write(self._wake_fd, 1)

    def outstanding(self) -> int:
        """Markers taken from the outbox and not acknowledged."""
        return len(self._flying) + len(self._again)

    def flush(self, seq: int, timeout_s: float) -> bool:
        """Wait until the daemon has stored all up to `seq`."""
        with self._news:
            if self._box.settled_seq < seq and not self._done:
                self._hurried += 1
                self.wake()
                self._news.wait_for(lambda: self._box.settled_seq >= seq or self._done, timeout_s)
                self._hurried -= 1
            return self._box.settled_seq >= seq

    def close(self, timeout_s: float) -> None:
        """Send what is left, say goodbye, end the thread; after `timeout_s` leave it to its fate."""
        self._stop_at = time.monotonic() + timeout_s
        self.wake()
        self._thread.join(timeout_s + 3 * LINGER_MS / 1000)
        if not self._thread.is_alive():
            os.close(self._wake_fd)

    def abandon(self) -> None:
        """In a forked child: the thread does not exist here, and the socket is the parent's."""
        os.close(self._wake_fd)

    # ---- the thread ----------------------------------------------------------------------------------

    def unacknowledged(self) -> list[bytes]:
        """The outstanding markers, oldest first."""
        return [data for _, data in (*self._flying, *self._again)]

    def _work(self) -> None:
        try:
            while self._connect() and not self._serve():
                self._link.close()
        except Exception as error:
            notes.count("internal")
            notes.warn_once("sender", f"energyd: the sender failed, the rest is not sent: {error!r}")
        finally:
            with self._news:
                self._done = True
                self._news.notify_all()
            self._link.end(LINGER_MS)

    def _connect(self) -> bool:
        """Wait for a daemon that welcomes us. False: it is not worth waiting any longer."""
        while not (self._leaving() and self._box.settled()):
            endpoint = default_endpoint()  # asked anew each time: a system daemon may have come
            answer: Welcome | EnergydError | None = reach.obstacle(endpoint)
            if answer is None:
                answer = self._link.open(endpoint, self._box.hello, self._welcome_s())
            if isinstance(answer, Welcome):
                self._welcomed(answer)
                return True
            self._link.close()
            if isinstance(answer, VersionMismatch):
                self._mute(answer.message)
                return False
            self._unreached(endpoint, answer)
            if self._leaving():
                return False
            self._nap()
        return False

    def _serve(self) -> bool:
        """Send and take acks until the connection is of no more use. True: there is to be no other."""
        poller = zmq.Poller()
        poller.register(self._link.socket, zmq.POLLIN)
        poller.register(self._link.monitor, zmq.POLLIN)
        poller.register(self._wake_fd, zmq.POLLIN)
        self._progress, self._acked = time.monotonic(), False
        while True:
            self._box.refill()
            self._box.stock_ids()
            if not (self._receive() and self._send()):
                if not (self._acked or self._box.muted):
                    self._nap()  # a daemon that welcomes and then refuses: do not run in circles
                return self._box.muted
            now = time.monotonic()
            if self._stop_at is not None and (self._box.settled() or now >= self._stop_at):
                if not (self._again or self._box.waiting()):  # else our death tells it, and the spool
                    self._link.send(pack(Bye()))
                return True
            if (self._flying or self._held) and now - self._progress >= self._patience_s:
                self._patience_s = min(2 * self._patience_s, 20 * SILENCE_S)
                return False
            if not self._rest(poller, now):
                return False

    def _rest(self, poller: zmq.Poller, now: float) -> bool:
        """Sleep until it is time to look, or somebody rings or speaks. False: the connection is lost."""
        room = len(self._flying) < self._credit and not self._held  # else only an ack can help
        if room and self._box.fresh:
            if not self._leaving():
                time.sleep(BATCH_S)
            return True
        waits_s = []
        if room:
            waits_s.append(LOOK_S if now < self._alert_until else IDLE_LOOK_S)
        if self._flying or self._held:
            waits_s.append(self._progress + self._patience_s - now)
        if self._stop_at is not None:
            waits_s.append(self._stop_at - now)
        ready = dict(poller.poll(max(0, int(1000 * min(waits_s)) + 1)))
        if self._wake_fd in ready:
            self._drain_wake()
        return self._link.monitor not in ready

    def _send(self) -> bool:
        """Send what the credit allows. False: nobody is connected any more."""
        sent = False
        while len(self._flying) < self._credit and not self._held:
            source = self._again or self._box.fresh
            if not source:
                break
            if not self._link.send(source[0][1]):
                return False
            if not self._flying:
                self._progress = time.monotonic()
            item = source.popleft()
            sent = True
            self._flying.append(item)
            self._sent_seq = max(self._sent_seq, item[0])
            if item[0] % YIELD_EVERY == 0:
                time.sleep(0)
        if sent:
            self._alert_until = time.monotonic() + ALERT_S
        return True

    def _receive(self) -> bool:
        """Take what the daemon said. False: this connection is over."""
        while self._link.has_word():
            message = self._link.receive()
            if isinstance(message, Ack):
                self._settle(message.seq)
                self._held = False
                self._progress, self._acked = time.monotonic(), True
                self._wait_s, self._patience_s = FIRST_WAIT_S, SILENCE_S
            elif isinstance(message, Welcome):
                self._welcomed(message)
            elif isinstance(message, Refusal):
                if message.code == "version":
                    self._mute(message.message)
                if message.code in ("version", "hello_first"):
                    return False
                if message.code == "busy":
                    self._turned_away(message.seq)
                else:
                    self._refused(message)
        return True

    def _welcomed(self, welcome: Welcome) -> None:
        self._credit, self._held = max(1, welcome.credit), False
        self._flying.extend(self._again)
        self._flying, self._again = deque(), self._flying
        self._settle(welcome.last_seq)
        self._box.welcomed()

    def _settle(self, seq: int) -> None:
        for queue in (self._flying, self._again):
            while queue and queue[0][0] <= seq:
                queue.popleft()
        self._tell()

    def _turned_away(self, seq: int | None) -> None:
        """The daemon has no room from `seq` on: nothing is lost, all of it goes out again in order."""
        first = self._sent_seq if seq is None else seq
        again = [item for item in self._flying if item[0] >= first]
        self._flying = deque(item for item in self._flying if item[0] < first)
        self._again.extendleft(reversed(again))
        self._held = True

    def _refused(self, refusal: Refusal) -> None:
        """One marker is refused: it is dropped, the rest goes on."""
        notes.count("refused")
        culprit = refusal.field or "no field named"
        notes.warn_once(
            f"refused {refusal.code} {culprit}",
            f"energyd refused a marker ({refusal.code}, {culprit}): {refusal.message}",
        )
        if refusal.seq is not None:
            self._flying = deque(item for item in self._flying if item[0] != refusal.seq)
            self._again = deque(item for item in self._again if item[0] != refusal.seq)
            self._tell()

    def _tell(self) -> None:
        oldest = self._flying or self._again
        with self._news:
            self._box.settled_seq = oldest[0][0] - 1 if oldest else self._sent_seq
            self._news.notify_all()
        self._box.release()

    def _mute(self, word: str) -> None:
        notes.warn_once(
            "version",
            f"energyd speaks another protocol than this client ({VERSION}); this run is not measured\n"
            f"the daemon says: {word}\nupgrade the older of the two",
        )
        self._box.mute()
        self._flying.clear()
        self._again.clear()

    def _unreached(self, endpoint: str, obstacle: EnergydError) -> None:
        reason = getattr(obstacle, "reason", "")
        cure = "start it: energyd start; or silence this: ENERGYD_DISABLE=1"
        if isinstance(obstacle, PermissionRefused):
            cure = "let an administrator add you to its group: usermod -aG energyd USER"
        if isinstance(obstacle, DaemonTimeout):  # it listens: it starts, or it hangs
            reason = f"no answer to our greeting within {obstacle.timeout_s:.2g} s"
            cure = "look at it: energyd status; or silence this: ENERGYD_DISABLE=1"
        if isinstance(obstacle, DaemonTimeout) and self._box.spool.reason is None:
            text = f"energyd at {endpoint} is slow: {reason}; markers are kept and sent when it answers"
        elif self._box.unmeasured:
            text = f"energyd is not reachable at {endpoint}: {reason}; this run is not measured"
        else:
            text = f"energyd at {endpoint} is gone: {reason}; markers are kept and sent when it is back"
        notes.warn_once("unreached", f"{text}\n{cure}")

    def _leaving(self) -> bool:
        return self._stop_at is not None

    def _welcome_s(self) -> float:
        """How long to wait for a Welcome: less when the program is ending."""
        return (
            WELCOME_S
            if self._stop_at is None
            else max(0.05, min(WELCOME_S, self._stop_at - time.monotonic()))
        )

    def _nap(self) -> None:
        """Pause before the next attempt: longer each time, short while somebody waits."""
        poll = select.poll()
        poll.register(self._wake_fd, select.POLLIN)
        poll.poll(1000 * (FIRST_WAIT_S if self._hurried else self._wait_s))
        self._drain_wake()
        self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)

    def _drain_wake(self) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass
