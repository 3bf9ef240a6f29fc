"""How quick are the commands that one types every day, and what does the open live view cost?

    python tests/bench/everyday.py [--quick] [--out DIR] [--captures FILE]

Whole processes, as a shell waits for them. The view runs at its default 4 Hz on a terminal of 160 x 50 beside
a stand-in of the daemon (tests/daemon/top_publisher.py) with eight GPUs at 50 Hz; its CPU time is the
kernel's. --captures writes what tmux shows of it at 80 x 24 and 160 x 50.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import statistics
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.figures import ROOT, Bench, child_env, cpu_s, run

PYTHON = sys.executable
SIZES = ((80, 24), (160, 50))
TOP = [PYTHON, "-m", "energyd", "top", "--carbon", "380", "--price", "0.30EUR/kWh"]


@contextmanager
def publisher(folder: Path, n_gpus: int) -> Iterator[dict[str, str]]:
    """A stand-in of the daemon; the environment in which it is found."""
    folder.mkdir()
    script = ROOT / "tests" / "daemon" / "top_publisher.py"
    process = subprocess.Popen([PYTHON, str(script), str(folder), str(n_gpus)], env=child_env())
    try:
        while not (folder / "ready").exists():
            time.sleep(0.05)
        yield child_env(
            ENERGYD_ENDPOINT=f"ipc://{folder / 'energyd.sock'}", TERM="xterm-256color", LC_ALL="C.UTF-8"
        )
    finally:
        process.kill()
        process.wait()


def median_ms(command: list[str], times: int, env: dict[str, str]) -> float:
    """Median wall time of a command, ms; the first one, which fills the caches, does not count."""
    took = []
    for _ in range(times + 1):
        began = time.perf_counter()
        subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)
        took.append((time.perf_counter() - began) * 1000)
    return statistics.median(took[1:])


def view_cpu_percent(env: dict[str, str], seconds: float) -> float:
    """CPU time of `energyd top` on a terminal of 160 x 50, % of a core, once it has drawn for a while."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(PYTHON, TOP, env)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
    drawn = bytearray()

    def read() -> None:
        try:
            while more := os.read(terminal, 65536):
                drawn.extend(more)
        except OSError:
            pass  # it has left

    reader = threading.Thread(target=read)
    reader.start()
    while b"epoch 2" not in drawn:
        time.sleep(0.1)
    time.sleep(1)
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    spent = (cpu_s(pid) - before) / (time.monotonic() - began)
    os.write(terminal, b"q")
    os.waitpid(pid, 0)
    reader.join(5)
    os.close(terminal)
    return 100 * spent


def capture(env: dict[str, str], folder: Path, width: int, height: int, seconds: float) -> str:
    """What a terminal of that size shows after so many seconds."""
    tmux = ["tmux", "-u", "-S", str(folder / f"tmux{width}"), "-f", "/dev/null"]
    command = " ".join(f"'{word}'" for word in TOP)
    size = ["-x", str(width), "-y", str(height)]
    subprocess.run([*tmux, "new-session", "-d", *size, command], env=env, check=True)
    time.sleep(seconds)
    shown = subprocess.run([*tmux, "capture-pane", "-p"], env=env, capture_output=True, text=True, check=True)
    subprocess.run([*tmux, "kill-server"], env=env, check=True)
    return shown.stdout


def captures(folder: Path, page: Path, seconds: float) -> None:
    """The page of pictures."""
    out = [
        "# The live view", "",
        "What `energyd top --carbon 380 --price 0.30EUR/kWh` shows on terminals of two sizes. Written by",
        "`python tests/bench/everyday.py --captures docs/live-view.md`; the machine is a scripted stand-in",
        "(`tests/daemon/top_publisher.py`), so these figures are nobody's.",
    ]  # fmt: skip
    for n_gpus, (width, height) in zip((1, 2), SIZES, strict=True):
        with publisher(folder / f"p{width}", n_gpus) as env:
            shown = capture(env, folder, width, height, seconds).rstrip("\n")
        out += ["", f"## {width} x {height}", "", "```text", *(x.rstrip() for x in shown.split("\n")), "```"]
    out += [
        "", "`s` sorts by begin, energy, power or J/token; `f` freezes the picture while what is heard goes",
        "on being taken; `q` leaves. In a pipe it is one line a second, with `--json` one object; `--once`",
        "is one picture. `≥` and `≤`: children may have counted before the view began to listen.",
    ]  # fmt: skip
    page.write_text("\n".join(out) + "\n")


def measure(bench: Bench, folder: Path) -> None:
    """All rows."""
    quick = bench.options.quick
    times, env = (3, child_env()) if quick else (20, child_env())
    for program in ("energyd", "energyq"):
        took = median_ms([PYTHON, "-m", program, "--help"], times, env)
        bench.add(f"{program} --help", took, "ms", target=120, note=f"median of {times}")
    found = child_env(ENERGYD_ENDPOINT=f"ipc://{folder / 'nobody.sock'}", ENERGYD_SPOOL=str(folder))
    owner = ["--owner", str(os.getpid())]
    mark = [PYTHON, "-m", "energyd", "mark"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*mark, "begin", "a", *owner], env=found, check=True, **quiet)  # type: ignore[call-overload]
    took = median_ms([*mark, "count", "a", "n=1", *owner], times, found)
    bench.add("energyd mark count", took, "ms", target=150, note=f"median of {times}; the keeper is up")
    with publisher(folder / "p", 8) as env:
        seconds = 2.0 if quick else 20.0
        percent = view_cpu_percent(env, seconds)
    bench.add("energyd top, 4 Hz, 160 x 50, eight GPUs", percent, "% of a core", target=3,
              note=f"over {seconds:g} s")  # fmt: skip
    if bench.options.captures is not None:
        if shutil.which("tmux") is None:
            raise SystemExit("--captures needs tmux")
        captures(folder, bench.options.captures, 1.0 if quick else 60.0)


if __name__ == "__main__":
    run(
        "everyday", "how quick are everyday's commands, and what does the live view cost?", __doc__, measure,
        more=[("--captures", {"type": Path, "help": "file for what tmux shows of the view"})],
    )  # fmt: skip
