"""What did an older release leave behind? Runs a checkout of it, writes down its store, spool and frames.

Run: `python tests/older/make_older.py CHECKOUT`, CHECKOUT made by `git archive COMMIT client daemon | tar x`.
A daemon of it is killed while a run is open; the program marks on into its spool and is killed, too. Frames
are those that a whole run's client sent, caught by a proxy before the daemon.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import duckdb
import zmq

HERE = Path(__file__).parent
ANYWHERE = """
import os, sys, time, types
os.uname = lambda: types.SimpleNamespace(nodename="older", release="6.1")
import energyd_client as energy
"""
WHOLE = """
with energy.run("whole", pipeline="kd", seed=0) as run:
    with run.stage("a") as stage:
        time.sleep(0.15)
        stage.count(label=5)
    run.metric("exact_match", 0.5, n=10)
energy.flush(20)
"""
OPEN = """
run = energy.run("open", pipeline="kd").begin()
outer = run.stage("outer").begin()
inner = run.stage("inner").begin()
energy.flush(20)
print("open", flush=True)
sys.stdin.readline()
inner.count(label=7)
inner.end()
print("ended", flush=True)
time.sleep(600)
"""


def main(checkout: Path) -> None:
    work = Path(tempfile.mkdtemp())
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(checkout / part) for part in ("client", "daemon")),
        "ENERGYD_ENDPOINT": f"ipc://{work}/e.sock",
        "ENERGYD_SPOOL": str(work / "spool"),
    }
    start = [sys.executable, "-m", "energyd", "start", "--foreground", "--source", "simulated", "--store"]
    daemon = subprocess.Popen([*start, str(work / "store")], env=env, cwd=work)
    while not ((work / "store" / "lock").exists() and (work / "store" / "lock").read_text()):
        time.sleep(0.05)
    frames = catch(work, lambda through: program(WHOLE, {**env, "ENERGYD_ENDPOINT": through}).wait())
    (HERE / "frames.hex").write_text("".join(f"{frame.hex()}\n" for frame in frames))
    client = program(OPEN, env)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdout.readline()
    time.sleep(1.5)  # what is stored by now is what the file holds
    daemon.kill()
    daemon.wait()
    client.stdin.write(b"\n")
    client.stdin.flush()
    client.stdout.readline()
    client.kill()
    (spool,) = (work / "spool").iterdir()
    shutil.copy(spool, HERE / spool.name)
    dump(work / "store" / "hot.duckdb", HERE / "hot.sql")
    shutil.rmtree(work)


def program(code: str, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """A client of the older release, on no machine in particular."""
    command, pipe = [sys.executable, "-c", ANYWHERE + code], subprocess.PIPE
    return subprocess.Popen(command, env=env, cwd="/", stdin=pipe, stdout=pipe)


def catch(work: Path, run: object) -> list[bytes]:
    """What one client sends to the daemon, in order."""
    context, frames, over = zmq.Context(), [], threading.Event()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    front.bind(f"ipc://{work}/proxy.sock")
    back.connect(f"ipc://{work}/e.sock")

    def pass_on() -> None:
        identity = b""
        while not over.is_set():
            for socket in dict(zmq.zmq_poll([(front, zmq.POLLIN), (back, zmq.POLLIN)], 50)):
                if socket is front:
                    identity, *parts = front.recv_multipart()
                    frames.extend(parts)
                    back.send_multipart(parts)
                else:
                    front.send_multipart([identity, *back.recv_multipart()])

    thread = threading.Thread(target=pass_on)
    thread.start()
    run(f"ipc://{work}/proxy.sock")  # type: ignore[operator]
    over.set()
    thread.join()
    context.destroy(0)
    return frames


def dump(hot: Path, target: Path) -> None:
    """The tables and their rows as SQL."""
    lines = []
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{hot}' AS hot; USE hot")
        for table, sql in con.execute("SELECT table_name, sql FROM duckdb_tables() ORDER BY 1").fetchall():
            lines.append(sql.replace("CREATE TABLE hot.", "CREATE TABLE ") + "\n")
            rows = con.execute(f"FROM {table}").fetchall()
            if rows:
                values = ",\n".join(f"({', '.join(map(literal, row))})" for row in rows)
                lines.append(f"INSERT INTO {table} VALUES\n{values};\n")
    target.write_text("".join(lines).replace(literal(os.uname().nodename), "'older'"))


def literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return str(value)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
