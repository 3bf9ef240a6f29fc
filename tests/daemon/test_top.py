"""Does `energyd top` show a daemon's news: on a real terminal, in a pipe, once, and when nobody is there?"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PUBLISHER = Path(__file__).with_name("top_publisher.py")
TOP = [sys.executable, "-m", "energyd", "top"]


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.05)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a Unix socket's may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="top-") as path:
        yield Path(path)


@pytest.fixture
def publisher(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A stand-in for the daemon, in a process of its own; it is killed at the end."""
    process = subprocess.Popen([sys.executable, str(PUBLISHER), str(folder)])
    try:
        wait_until((folder / "ready").exists)
        yield process
    finally:
        process.kill()
        process.wait()


def env_for(folder: Path, **more: str) -> dict[str, str]:
    ours = {
        "ENERGYD_ENDPOINT": f"ipc://{folder / 'energyd.sock'}",
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
    }
    return {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}} | ours | more


def top(folder: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TOP, *options], env=env_for(folder, **more), capture_output=True, text=True, timeout=60, check=False
    )


class Terminal:
    """A tmux server of our own with one window."""

    def __init__(self, folder: Path, width: int, height: int, **inside: str) -> None:
        self.socket = str(folder / "tmux")
        self.env = env_for(folder, SHELL="/bin/sh")
        self.env.pop("TMUX", None)
        after = f"echo left with $? > {folder}/left; stty -a > {folder}/stty; exec sleep 60"
        exports = "".join(f"export {name}={value}; " for name, value in inside.items())
        # The shell gets Ctrl-C too, and must live to say how `energyd top` ended.
        command = f"trap : INT; {exports}" + " ".join(f"'{word}'" for word in TOP) + f"; {after}"
        self.tmux("-u", "-f", "/dev/null", "new-session", "-d", "-x", str(width), "-y", str(height), command)

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self.socket, *words],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout

    def shows(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options)

    def wait_for(self, pattern: str) -> str:
        wait_until(lambda: re.search(pattern, self.shows()))
        return self.shows()

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminal(folder: Path, publisher: object) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals on which `energyd top` runs against the publisher."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux missing")
    opened: list[Terminal] = []

    def opener(width: int, height: int, **inside: str) -> Terminal:
        opened.append(Terminal(folder, width, height, **inside))
        return opened[-1]

    yield opener
    for one in opened:
        one.close()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (160, 50)])
def test_a_terminal_shows_power_the_tree_of_stages_and_health(
    terminal: Callable[..., Terminal], width: int, height: int
) -> None:
    screen = terminal(width, height).wait_for(r"(?s)gpu0.*\d W.*└─ epoch 2.*\d J/label.*sampler late p99")
    rows = screen.split("\n")
    assert re.search(r"gpu0 .*H100 80GB HBM3 +\d+ W .*[▁▂▃▄▅▆▇█]", screen)
    assert re.search(r"cpu .*AMD EPYC 9654 +60 W .*codecarbon \(est\)", screen)
    assert "dram  – unreadable: RAPL needs root" in screen
    assert re.search(r"└─ train +3\d\.\d s +[\d.]+ kJ +[\d.]+ kJ +[\d.]+ kJ", screen)
    assert re.search(r"   └─ epoch 2 +\d\d\.\d s .* [\d.]+ J/label", screen)
    assert re.search(r"✓ preprocess +3\.0 s +900 J +180 J +1\.08 kJ", screen)
    assert "sampler late p99 0.4 ms · 3 waiting · 1 client · 0 gaps · 0 lost" in rows[height - 1]
    assert max(map(len, rows)) <= width


def test_joules_rise_while_one_watches(terminal: Callable[..., Terminal]) -> None:
    window = terminal(80, 24)
    row = r"└─ train .* ([\d.]+) kJ +≥"

    def total_kj() -> float:
        found = re.search(row, window.shows())
        return float(found[1]) if found else 0.0

    wait_until(lambda: total_kj() > 0)
    first = total_kj()
    wait_until(lambda: total_kj() > first)


def test_f_freezes_the_picture_and_s_sorts_it(terminal: Callable[..., Terminal]) -> None:
    window = terminal(100, 24)
    window.wait_for("epoch 2")
    window.tmux("send-keys", "f")
    still = window.wait_for("FROZEN")
    window.tmux("send-keys", "s")
    # Drawn anew after the key, at the same instant as before it: to the second and to the joule.
    assert window.wait_for("s sort: energy").splitlines()[1:] == still.splitlines()[1:]
    window.tmux("send-keys", "f")
    wait_until(lambda: "FROZEN" not in window.shows())


def test_a_resized_terminal_is_filled_anew(terminal: Callable[..., Terminal]) -> None:
    window = terminal(80, 24)
    assert "PER SECOND" not in window.wait_for("epoch 2")
    window.tmux("resize-window", "-x", "150", "-y", "40")
    window.wait_for("PER SECOND")
    wait_until(lambda: "sampler late" in window.shows().split("\n")[39])


@pytest.mark.parametrize("key", ["q", "C-c"])
def test_a_key_leaves_and_gives_the_terminal_back_as_it_was(
    terminal: Callable[..., Terminal], folder: Path, key: str
) -> None:
    window = terminal(80, 24)
    window.wait_for("epoch 2")
    window.tmux("send-keys", key)
    wait_until((folder / "left").exists)
    assert (folder / "left").read_text() == "left with 0\n"
    wait_until(lambda: (folder / "stty").exists() and "icanon" in (folder / "stty").read_text())
    settings = (folder / "stty").read_text().split()
    assert "icanon" in settings
    assert "echo" in settings
    wait_until(lambda: "epoch 2" not in window.shows())  # the alternate screen is gone


def test_sigterm_gives_the_terminal_back_too(terminal: Callable[..., Terminal], folder: Path) -> None:
    window = terminal(80, 24)
    window.wait_for("epoch 2")
    shell = int(window.tmux("display-message", "-p", "#{pane_pid}"))
    (watcher,) = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    os.kill(int(watcher), signal.SIGTERM)
    wait_until((folder / "left").exists)
    wait_until(lambda: "epoch 2" not in window.shows())


def test_colours_say_the_domain(terminal: Callable[..., Terminal]) -> None:
    window = terminal(80, 24)
    window.wait_for("epoch 2")
    assert {32, 36} <= colours(window.shows("-e"))


def test_no_color_is_honoured(terminal: Callable[..., Terminal]) -> None:
    window = terminal(80, 24, NO_COLOR="1")
    window.wait_for("epoch 2")
    assert colours(window.shows("-e")) == set()


def colours(screen: str) -> set[int]:
    """SGR numbers that set a colour (39 and 49 set the terminal's own)."""
    numbers = {int(n) for group in re.findall(r"\x1b\[([\d;]*)m", screen) for n in group.split(";") if n}
    return {n for n in numbers if 30 <= n <= 38 or 40 <= n <= 48 or 90 <= n <= 107}


def test_a_pipe_gets_one_plain_line_per_interval(folder: Path, publisher: object) -> None:
    result = top(folder, "--interval", "0.5", "--seconds", "1.5")
    lines = result.stdout.splitlines()
    assert result.returncode == 0, result.stderr
    assert 2 <= len(lines) <= 4
    assert "\x1b" not in result.stdout
    assert re.match(
        r"\d\d:\d\d:\d\d gpu0 \d+ W  cpu 60 W \(est\)  train 3\d s [\d.]+ kJ ≤[\d.]+ J/label", lines[-1]
    ), lines


def test_a_dumb_terminal_gets_lines_too(terminal: Callable[..., Terminal]) -> None:
    assert "DEVICE" not in terminal(120, 24, TERM="dumb").wait_for(r"\d\d:\d\d:\d\d gpu0 \d+ W")


def test_once_shows_one_picture(folder: Path, publisher: object) -> None:
    result = top(folder, "--once", COLUMNS="80")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("DEVICE") == 1
    assert "└─ epoch 2" in result.stdout
    assert "q quits" not in result.stdout
    assert "\x1b" not in result.stdout


def test_once_with_json_is_one_object_with_numbers(folder: Path, publisher: object) -> None:
    result = top(folder, "--once", "--json")
    shown = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert [d["label"] for d in shown["devices"]] == ["gpu0", "cpu"]
    assert shown["devices"][1]["power_w"] == 60.0
    assert [s["path"] for s in shown["open_stages"]] == ["train", "train/epoch 2"]
    assert shown["open_stages"][0]["total_j"] > 11_800
    assert shown["domains"][2]["reason"] == "RAPL needs root"
    assert shown["watched_j"] >= 0
    assert shown["watched_co2e_g"] is None


def test_json_without_once_is_an_object_per_interval(folder: Path, publisher: object) -> None:
    result = top(folder, "--json", "--interval", "0.5", "--seconds", "1.2")
    instants = [json.loads(text)["t_ns"] for text in result.stdout.splitlines()]
    assert len(instants) >= 2
    assert instants == sorted(set(instants))


def test_without_a_daemon_the_exit_code_is_3_and_the_cure_is_named(folder: Path) -> None:
    result = top(folder)
    assert result.returncode == 3
    assert result.stdout == ""
    assert str(folder / "energyd.sock") in result.stderr
    assert "energyd start" in result.stderr
    assert len(result.stderr.splitlines()) <= 3


def test_a_daemon_that_dies_is_said_to_be_silent(
    terminal: Callable[..., Terminal], publisher: subprocess.Popen[bytes]
) -> None:
    window = terminal(80, 24)
    window.wait_for("epoch 2")
    publisher.kill()
    screen = window.wait_for(r"silent for \d")
    assert "energyd 0.1.0" in screen


def test_who_reads_only_the_first_line_leaves_no_traceback(folder: Path, publisher: object) -> None:
    command = " ".join(f"'{word}'" for word in TOP) + " --interval 0.2 --seconds 5 | head -n 1"
    result = subprocess.run(
        ["bash", "-c", command], env=env_for(folder), capture_output=True, text=True, timeout=60, check=False
    )
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr == ""
