"""Can a shell script mark its stages, each edge by a process of its own?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from real_daemon import Daemon, wait_for

FUNCTION = f'energyd() {{ "{sys.executable}" -m energyd "$@"; }}\n'
"""As if it were installed; a function of the shell, so that the shell itself is the caller."""


def shell(env: dict[str, str], script: str, name: str = "pipeline") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", FUNCTION + script, name], env=env, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip


def finals(daemon: Daemon, n: int) -> list[dict[str, Any]]:
    """The stages, once the energies of `n` are known, with what their run says."""
    sql = (
        "SELECT s.*, r.name AS run, r.status AS run_status, r.labels FROM stages s JOIN runs r USING (run_id)"
    )
    sql += " WHERE s.state = 'final' AND r.t1_ns IS NOT NULL ORDER BY s.t0_ns"
    found: list[dict[str, Any]] = wait_for(lambda: len(rows := daemon.query(sql)) == n and rows, 60)
    return found


def test_a_stage_lives_from_one_call_to_another_and_programs_between_them_join_it(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    joining = "import energyd_client as e; e.stage('inner').begin().end()"
    out = shell(
        daemon.env,
        f"""set -e
        eval "$(energyd mark begin train -l seed=3 --export)"
        "{sys.executable}" -c "{joining}"
        energyd mark begin epoch >id
        energyd mark count "$(cat id)" label=5
        energyd mark count epoch label=6
        energyd mark metric exact_match 0.5 -n 10
        energyd mark end "$(cat id)" --owner $$
        eval "$(energyd mark end train --status error --export)"
        test -z "$ENERGYD_STAGE_ID"
        rm id
        """,
    )
    assert (out.returncode, out.stdout, out.stderr) == (0, "", "")
    train, inner, epoch = finals(daemon, 3)
    assert [s["path"] for s in (train, inner, epoch)] == ["train", "train/inner", "train/epoch"]
    assert [s["status"] for s in (train, inner, epoch)] == ["error", "ok", "ok"]
    assert (train["run"], train["run_status"], train["labels"]) == ("pipeline", "ok", {"seed": "3"})
    assert epoch["counts"] == {"label": 11}
    (found,) = daemon.query("SELECT m.name, m.value, m.n, b.offset_ns FROM metrics m, boots b")
    assert (found["name"], found["value"], found["n"]) == ("exact_match", 0.5, 10)
    # The end is when the shell made the call, which the kernel tells to the tick; not when Python was up.
    assert (epoch["t1_ns"] - found["offset_ns"]) % (1_000_000_000 // os.sysconf("SC_CLK_TCK")) == 0


@pytest.mark.fault(
    "A shell that dies with `energyd mark` stages open",
    seen="They and their run end `aborted`, when the shell did.",
    lost="Nothing.",
)
def test_what_a_shell_leaves_open_ends_aborted_with_the_shell(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    out = shell(daemon.env, "energyd mark begin left >/dev/null; energyd mark begin done >/dev/null; "
                            "energyd mark end done; kill -9 $$")  # fmt: skip
    assert out.returncode == -9
    left, done = finals(daemon, 2)
    assert (left["status"], left["run_status"], done["status"]) == ("aborted", "aborted", "ok")


def test_a_call_in_a_subshell_is_the_shells_and_stages_of_one_run_may_overlap(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    out = shell(
        daemon.env,
        """for name in a b; do ( energyd mark begin $name --run both || exit ) & done; wait
        for name in a b; do ( energyd mark end $name --owner $$ || exit ) & done; wait""",
    )
    assert out.stderr == ""
    assert len(out.stdout.split()) == 2
    a, b = finals(daemon, 2)
    assert {a["name"], b["name"]} == {"a", "b"}
    assert (a["run_id"], a["run"], a["status"], b["status"]) == (b["run_id"], "both", "ok", "ok")


def test_inside_energyd_run_marks_join_that_run(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    script = FUNCTION + "energyd mark begin inside >/dev/null; energyd mark end inside"
    out = daemon.run("energyd", "run", "--name", "outer", "--", "bash", "-c", script)
    assert out.returncode == 0, out.stderr
    outer, inside = finals(daemon, 2)
    assert (inside["path"], inside["run"], inside["run_status"]) == ("bash/inside", "outer", "ok")
    assert outer["run_id"] == inside["run_id"]


def test_a_stage_that_is_not_open_is_refused_by_name_and_exit_code_1(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    out = shell(
        daemon.env,
        "energyd mark end x; echo $?; energyd mark begin y >/dev/null; energyd mark end x; echo $?",
    )
    assert out.stdout.split() == ["1", "1"]
    assert "no stage is open for pid" in out.stderr
    assert "no open stage is called 'x' in this shell (open: y)" in out.stderr


def test_an_empty_name_begins_and_ends_nothing(daemon: Daemon) -> None:
    daemon.start(source="simulated")
    out = shell(
        daemon.env,
        """energyd mark begin train >/dev/null
        energyd mark begin "$unset"; echo $?
        energyd mark begin " "; echo $?
        energyd mark end ""; echo $?""",
    )
    assert out.stdout.split() == ["2", "2", "2"]
    assert out.stderr.count("an empty name names nothing") == 3
    (stage,) = finals(daemon, 1)  # the one that was named, and it ended with the shell
    assert (stage["name"], stage["status"]) == ("train", "aborted")


def test_without_a_daemon_a_script_goes_on_and_one_warning_says_that_nothing_is_measured(
    daemon: Daemon,
) -> None:
    out = shell(daemon.env, "set -e; energyd mark begin a; energyd mark end a; echo done")
    assert out.returncode == 0
    assert out.stdout.split()[-1] == "done"
    assert out.stderr.startswith("energyd: nothing is measured: energyd is not there")
    silent = shell({**daemon.env, "ENERGYD_DISABLE": "1"}, "set -e; energyd mark begin a; energyd mark end a")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "unmeasured\n", "")
