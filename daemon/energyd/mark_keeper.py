"""Who holds a shell script's stages open between its `energyd mark` calls? One small process per shell.

To the daemon it is a client like any other, so a stage that outlives the call that began it is nothing new to
the protocol. Its life hangs on that of the shell by a pidfd: when the shell ends it leaves, and what is still
open then ends `aborted`, like any client's. `marks.py` starts it and speaks to it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from energyd_client import arguments, clock, lifetime, process
from energyd_client.protocol import Count, Metric, RunBegin, RunEnd, StageBegin, StageEnd

MAX_REQUEST: Final = 65_536
REQUEST_WAIT_S: Final = 5.0
"""How long who has connected may take to ask; he is the next in line, not one that types."""

LAST_WORDS_S: Final = 5.0
"""The shell is gone and nobody waits for us: time to let the daemon store everything."""


class Refused(Exception):
    """What is asked for cannot be: the text is for the person who typed it."""


@dataclass
class _Stage:
    stage_id: str
    name: str
    run_id: str
    parent_id: str | None


class Keeper:
    """The open runs and stages of one shell. `answer` is the only way in."""

    def __init__(self) -> None:
        self._own_runs: dict[str, str] = {}  # name: id, of those that were begun here
        self._stages: dict[str, _Stage] = {}  # open ones, oldest first

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Do what one `energyd mark` call asks for. Raises Refused."""
        return getattr(self, f"_{asked['do']}")(asked)  # type: ignore[no-any-return]

    def leave(self) -> None:
        """The shell has ended: runs with nothing open end well; the daemon ends the others, `aborted`."""
        box = lifetime.opened()
        open_runs = {stage.run_id for stage in self._stages.values()}
        for run_id in self._own_runs.values():
            if box is not None and run_id not in open_runs:
                box.post(RunEnd(0, clock.now_ns(), run_id, "ok"))
        if box is not None:
            box.flush(LAST_WORDS_S)
        lifetime.close()

    def _begin(self, asked: dict[str, Any]) -> dict[str, Any]:
        box = lifetime.outbox()
        t_ns = clock.now_ns()  # not the caller's: he waited until we were up, and works from here on
        run_id = asked["run_id"] or self._run(asked, t_ns)
        parent_id = asked["parent_id"]
        stage_id = box.ident()[0] if box is not None else lifetime.silent_id()
        stage = _Stage(stage_id, arguments.name(asked["name"], "stage name"), run_id, parent_id)
        if box is not None:
            box.describe_process(t_ns)
            box.post(StageBegin(0, t_ns, run_id, stage.stage_id, stage.name, parent_id, asked["devices"]))
        self._stages[stage.stage_id] = stage
        return {"run_id": run_id, "stage_id": stage.stage_id}

    def _run(self, asked: dict[str, Any], t_ns: int) -> str:
        """The run of that name, begun if it is new."""
        name = arguments.name(asked["run"], "run name")
        if name not in self._own_runs:
            run_id = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
            labels = arguments.labels(asked["labels"], f"labels of run {name!r}")
            env = {**process.environment(), "argv": asked["argv"], "cwd": asked["cwd"]}
            commit = process.git_commit(Path(asked["cwd"])) if asked["cwd"] else None
            if box := lifetime.outbox():
                box.post(RunBegin(0, t_ns, run_id, name, labels, env, commit))
            self._own_runs[name] = run_id
        return self._own_runs[name]

    def _end(self, asked: dict[str, Any]) -> dict[str, Any]:
        stage = self._find(asked["stage"])
        if box := lifetime.outbox():
            box.post(StageEnd(0, asked["t_ns"], stage.run_id, stage.stage_id, asked["status"]))
        del self._stages[stage.stage_id]
        return {"run_id": stage.run_id, "stage_id": stage.stage_id, "parent_id": stage.parent_id}

    def _count(self, asked: dict[str, Any]) -> dict[str, Any]:
        stage = self._find(asked["stage"])
        if box := lifetime.outbox():
            box.post(Count(0, asked["t_ns"], stage.run_id, stage.stage_id, asked["counts"]))
        return {"run_id": stage.run_id, "stage_id": stage.stage_id}

    def _metric(self, asked: dict[str, Any]) -> dict[str, Any]:
        stage = self._find(asked["stage"])
        if box := lifetime.outbox():
            box.post(
                Metric(
                    0, asked["t_ns"], stage.run_id, asked["name"], asked["value"], asked["n"], stage.stage_id
                )
            )
        return {"run_id": stage.run_id, "stage_id": stage.stage_id}

    def _find(self, word: str | None) -> _Stage:
        """An open stage by its id or name; None: the newest."""
        for stage in reversed(self._stages.values()):
            if word in (None, stage.stage_id, stage.name):
                return stage
        names = ", ".join(stage.name for stage in self._stages.values()) or "none"
        which = "no stage is open" if word is None else f"no open stage is called {word!r}"
        raise Refused(f"{which} in this shell (open: {names})\n  cure: `energyd mark begin NAME` first")


def serve(listener: socket.socket, owner_fd: int) -> None:
    """Answer until the owner, whose pidfd this is, has ended; who is in line by then is still answered."""
    keeper = Keeper()
    over = False
    while not over:
        ready, _, _ = select.select([listener.fileno(), owner_fd], [], [])
        over = owner_fd in ready
        listener.setblocking(False)
        while True:
            try:
                line, _ = listener.accept()
            except BlockingIOError:
                break
            with line:
                _answer(keeper, line)
    listener.close()
    keeper.leave()


def _answer(keeper: Keeper, line: socket.socket) -> None:
    line.settimeout(REQUEST_WAIT_S)
    try:
        if uid_of(line) != os.geteuid():
            return
        asked = json.loads(line.recv(MAX_REQUEST))
        try:
            said = keeper.answer(asked)
        except Refused as refusal:
            said = {"refused": str(refusal)}
        line.send(json.dumps(said).encode())
    except (OSError, ValueError, KeyError, AttributeError):
        return  # gone meanwhile, or not one of ours


def uid_of(line: socket.socket) -> int:
    """Whose process is on the other end; the kernel says it."""
    found = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", found)[1]
    return uid


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
