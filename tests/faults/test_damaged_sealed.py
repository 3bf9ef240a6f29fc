"""What becomes of a store whose sealed files or catalogue were flipped, cut or emptied?"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from damaged import DAMAGES, Template, ask, costs, cut, finished_run, flip, sealed_bytes
from energyd.store import Layout, hour_of_sealed
from energyd.store.catalogue import write_catalogue
from energyd.store.recover import recover
from energyd.store.sealed import damaged_files
from real_daemon import Daemon
from staged import status


@pytest.fixture
def daemon_on(template: Template, make_daemon: Callable[..., Daemon]) -> Daemon:
    """The template in a daemon's place, not started."""
    return template.copy(make_daemon())


def content(store: Path) -> dict[Path, bytes]:
    """Every file but the lock."""
    return {p: p.read_bytes() for p in store.rglob("*") if p.is_file() and p.name != "lock"}


def sealed(store: Path, table: str) -> Path:
    (path,) = store.glob(f"sealed/{table}/*/*.parquet")
    return path


@pytest.mark.fault(
    "A damaged sealed file",
    seen="`energyq` leaves it out, names it and exits 4. The next start, or `energyd recover`, renames it to "
    "`….damaged-TIME` and says so. A flipped bit that reads as another value is found by its SHA-256: in the "
    "newest day at every start, before a day is made one file, and everywhere by `energyd recover`.",
    lost="Its rows. Lost samples are a gap `store_damaged`, bridged by the running integral; a lost cost is "
    "NULL with the reason `store_damaged`.",
)
def test_beside_a_damaged_sealed_file_energyq_answers_for_the_rest_and_says_so(
    daemon_on: Daemon, template: Template
) -> None:
    cut(sealed(daemon_on.store, "energies"), 0.7)
    out = daemon_on.run("energyq", "--store", str(daemon_on.store), "stages", "live")
    assert out.returncode == 4, out.stderr
    assert sealed(daemon_on.store, "energies").name in out.stderr
    assert "energyd recover" in out.stderr
    for run, was in template.runs.items():
        now = costs(daemon_on, run)
        assert [(r["stage"], r["device"]) for r in now] == [(r["stage"], r["device"]) for r in was]
        lost = [row for row in now if row["energy_j"] is None]
        assert all(row["reason"] == "store_damaged" for row in lost)
        assert lost or now == was
    assert sum(not any(r["energy_j"] for r in costs(daemon_on, run)) for run in template.runs) == 1


@pytest.mark.fault("A damaged sealed file")
def test_a_start_sets_damaged_sealed_files_aside_and_no_cost_moves(
    daemon_on: Daemon, template: Template
) -> None:
    lost = sealed(daemon_on.store, "samples")
    flip(lost, 0.5)
    daemon_on.start(source="simulated")
    finished_run(daemon_on, "after")
    said = status(daemon_on)
    assert said["state"] == "degraded"
    assert lost.name in said["reason"]
    assert not lost.exists()
    kept = {k: v for k, v in template.sealed.items() if not k.startswith("sealed/samples")}
    assert sealed_bytes(daemon_on.store) == kept
    for run, was in template.runs.items():
        assert costs(daemon_on, run) == was


@pytest.mark.fault("A damaged sealed file")
def test_a_bit_that_flips_unseen_is_found_by_its_sum(template: Template, tmp_path: Path) -> None:
    rng, unseen = random.Random(1), 0
    for k in range(12):
        root = tmp_path / f"{k}"
        shutil.copytree(template.store, root)
        path = sealed(root, rng.choice(["samples", "energies", "stages_log"]))
        flip(path, rng.random())
        (found,) = damaged_files(Layout(root), thorough=True)
        assert found.relative == str(path.relative_to(root))
        unseen += "SHA-256" in found.why
    assert unseen > 3  # else this shows nothing that DuckDB would not say


@pytest.mark.fault(
    "A deleted sealed file",
    seen="The next start and `energyd recover` say that it is gone, by the list of sums; `energyd status` is "
    "DEGRADED. No day is made one file without it.",
    lost="Its rows. Lost samples are a gap `store_damaged`, as of a damaged file; one for a device's first "
    "samples begins when it was declared.",
)
def test_recover_misses_a_deleted_file_and_its_samples_are_a_gap(daemon_on: Daemon) -> None:
    gone = sealed(daemon_on.store, "samples")
    gone.unlink()
    tell = ["--store", str(daemon_on.store), "--json"]
    first = daemon_on.run("energyd", "recover", *tell)
    assert first.returncode == 4, first.stderr
    said = json.loads(first.stdout)
    assert f"{gone.relative_to(daemon_on.store)} is gone" in said["found"][0]
    declared = {
        r["device"]: r["t_ns"]
        for r in ask(daemon_on, "SELECT device, min(t_ns) AS t_ns FROM raw_devices GROUP BY 1")
    }
    assert {g["device"]: g["t0_ns"] for g in said["gaps"]} == declared
    assert all(g["bridged_uj"] is None for g in said["gaps"])
    again = daemon_on.run("energyd", "recover", *tell)
    assert (again.returncode, json.loads(again.stdout)["found"]) == (0, [])


@pytest.mark.fault("A damaged sealed file")
def test_recover_says_what_is_lost_changes_nothing_when_dry_and_finds_nothing_twice(
    daemon_on: Daemon, template: Template
) -> None:
    DAMAGES["zero"](sealed(daemon_on.store, "samples"), 0.3)
    cut(daemon_on.store / "energy.duckdb", 0.5)
    flip(daemon_on.store / "hot.duckdb", 0.4)
    before = content(daemon_on.store)
    tell = ["--store", str(daemon_on.store), "--json"]
    dry = daemon_on.run("energyd", "recover", "--dry-run", *tell)
    assert dry.returncode == 4, dry.stderr
    assert {
        p: p.read_bytes() for p in daemon_on.store.rglob("*") if p.is_file() and p.name != "lock"
    } == before
    first = daemon_on.run("energyd", "recover", *tell)
    assert first.returncode == 4, first.stderr
    report = json.loads(first.stdout)
    assert len(report["found"]) == len(json.loads(dry.stdout)["found"])
    for name in ("samples", "hot.duckdb", "energy.duckdb"):
        assert any(name in line for line in report["found"]), report["found"]
    assert report["rows"]["samples"] > 0
    again = daemon_on.run("energyd", "recover", "--store", str(daemon_on.store))
    assert again.returncode == 0, again.stdout
    assert "nothing is damaged" in again.stdout
    with duckdb.connect(str(daemon_on.store / "energy.duckdb"), read_only=True) as tool:
        assert tool.execute("SELECT count(*) FROM stages").fetchone() != (0,)
    assert [r["name"] for r in ask(daemon_on, "FROM runs ORDER BY name")][-2:] == ["open", "sealed"]
    daemon_on.start(source="simulated")
    assert status(daemon_on)["state"] == "ok"
    refused = daemon_on.run("energyd", "recover", "--store", str(daemon_on.store))
    assert refused.returncode == 1
    assert f"pid {daemon_on.holder()['pid']}" in refused.stderr
    assert "energyd stop" in refused.stderr


@pytest.mark.fault("A damaged sealed file")
def test_a_file_damaged_under_a_running_daemon_keeps_no_tool_from_the_others(
    template: Template, tmp_path: Path
) -> None:
    root = tmp_path / "s"
    shutil.copytree(template.store, root)
    harmed = [sealed(root, table) for table in ("energies", "stages_log", "samples")]
    for path in harmed:
        cut(path, 0.6)
    hour = max(hour_of_sealed(path) for path in template.sealed) + 1
    live = {p.name.partition("-")[0]: f"live/{p.name}" for p in sorted(root.glob("live/*.parquet"))}
    left_out = write_catalogue(root, hour, live)
    assert left_out.keys() == {str(path.relative_to(root)) for path in harmed}
    with duckdb.connect(str(root / "energy.duckdb"), read_only=True) as tool:
        final = "SELECT count(*) FROM stages JOIN runs r USING (run_id) WHERE r.name = 'live'"
        assert tool.execute(final).fetchone() == (2,)
        assert tool.execute("SELECT count(*) > 0 FROM samples").fetchone() == (True,)


@pytest.mark.fault(
    "A damaged or missing catalogue (energy.duckdb)",
    seen="Other DuckDB tools refuse it until a start of the daemon, or `energyd recover`, writes it anew.",
    lost="Nothing: it holds no data.",
)
def test_a_damaged_catalogue_is_written_anew(template: Template, tmp_path: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(template.store, root)
    for harm in (lambda path: cut(path, 0.5), lambda path: flip(path, 0.0), Path.unlink):
        harm(root / "energy.duckdb")
        recover(root)
        with duckdb.connect(str(root / "energy.duckdb"), read_only=True) as tool:
            assert tool.execute("SELECT count(*) FROM stages").fetchone() != (0,)


@pytest.mark.long
@pytest.mark.fault("A damaged sealed file")
def test_of_forty_harms_to_sealed_files_and_the_catalogue_the_rest_survives(
    template: Template, make_daemon: Callable[..., Daemon]
) -> None:
    for seed in range(40):
        daemon, rng = template.copy(make_daemon()), random.Random(seed)
        harmed = rng.sample(sorted(daemon.store.glob("sealed/*/*/*.parquet")), rng.choice([1, 1, 2, 4]))
        for path in [*harmed, daemon.store / "energy.duckdb"]:
            DAMAGES[rng.choice(sorted(DAMAGES))](path, rng.random())
        broken = {str(p.relative_to(daemon.store)) for p in harmed}
        untouched = {k: v for k, v in template.sealed.items() if k not in broken}
        daemon.start(source="simulated")
        finished_run(daemon, "after")
        assert sealed_bytes(daemon.store).items() >= untouched.items(), (seed, broken)
        for run, was in template.runs.items():
            known = {(row["stage_id"], row["device"]): row["energy_j"] for row in was}
            for row in costs(daemon, run):
                if row["energy_j"] is None:
                    assert row["reason"], (seed, broken)
                else:
                    assert row["energy_j"] == known[row["stage_id"], row["device"]], (seed, broken)
        assert status(daemon)["state"] in ("degraded", "ok")
        daemon.kill()
