"""Is an artifact there whole or not at all, found again by what determines it, and never made twice?"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from energyd_pipelines.artifacts import Artifact, ArtifactSpec, Registry, manifest
from energyd_pipelines.artifacts import registry as room
from energyd_pipelines.artifacts import uses as lines
from energyd_pipelines.errors import DistillError
from real_daemon import wait_for

FIELDS: dict[str, Any] = {
    "teacher": "builtin:strings-v1", "weights": "ab" * 32, "tokenizer": "t1", "dataset": "d1",
    "k": 8, "temperatures": [1.0, 2.0, 4.0], "dtype": "float16", "seed": 0,
}  # fmt: skip
SPEC = ArtifactSpec("logits", FIELDS)


def spec(**other: Any) -> ArtifactSpec:
    return ArtifactSpec("logits", FIELDS | other)


def put(registry: Registry, wanted: ArtifactSpec = SPEC, content: bytes = b"logits", **more: Any) -> Artifact:
    with registry.draft(wanted) as draft:
        (draft.folder / "part").mkdir()
        (draft.folder / "part" / "vals").write_bytes(content)
        (draft.folder / "index").write_bytes(b"0123")
        return draft.commit(ledger={"positions": 40, "label": 30}, signal={"kept_mass_mean": 0.97}, **more)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "artifacts")


def program(tmp_path: Path, code: str) -> subprocess.Popen[str]:
    """Another process that works on the same registry, at SPEC; it is measured by nobody."""
    head = (
        "import sys, os, time\nfrom pathlib import Path\n"
        "from energyd_pipelines.artifacts import ArtifactSpec, Registry, obtain\n"
        "from energyd_pipelines.errors import DistillError\nimport energyd_client as energy\n"
        f"registry = Registry({str(tmp_path / 'artifacts')!r}); spec = ArtifactSpec('logits', {FIELDS!r})\n"
        f"work = Path({str(tmp_path)!r})\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("ENERGYD_")} | {"ENERGYD_DISABLE": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", head + code], env=env, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def leftovers(registry: Registry) -> list[str]:
    return sorted(p.name for p in registry.root.glob("*/.drafts/*"))


# ---- what it is called -------------------------------------------------------------------------------------


def test_the_same_specification_has_one_id_however_it_is_spelt() -> None:
    turned = dict(reversed(FIELDS.items())) | {"temperatures": (1, 2, 4)}
    assert ArtifactSpec("logits", turned).id == SPEC.id
    assert len(SPEC.id) == 32


@pytest.mark.parametrize("key", FIELDS)
def test_every_field_and_the_kind_are_part_of_the_id(key: str) -> None:
    ids = {SPEC.id, spec(**{key: "other"}).id, ArtifactSpec("synthetic", FIELDS).id}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("logit", {}, "one of dataset, teacher, logits"),
        ("logits", {"alpha": float("nan")}, "alpha is nan"),
        ("logits", {"path": Path("x")}, "path is PosixPath"),
        ("logits", {"a": {"b": {1: 2}}}, "a.b is {1: 2}"),
    ],
)
def test_a_specification_that_cannot_be_hashed_is_refused_in_words(
    kind: str, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(DistillError, match=said):
        ArtifactSpec(kind, fields)


# ---- found and served --------------------------------------------------------------------------------------


def test_what_was_committed_is_found_with_its_manifest(registry: Registry) -> None:
    assert registry.find(SPEC) is None
    made = put(registry)
    found = registry.find(spec())
    assert found is not None
    assert found.manifest == made.manifest
    assert [(f.name, f.bytes) for f in found.manifest.files] == [("index", 4), ("part/vals", 6)]
    plain = json.loads((found.folder / "manifest.json").read_text())
    assert plain["id"] == SPEC.id == found.folder.name
    assert plain["ledger"] == {"positions": 40, "nonpad": None, "label": 30, "generated": None}
    assert plain["production"]["energy_j"] == {"gpu": None, "cpu": None, "dram": None}
    assert "nobody asked" in plain["production"]["reason"]["total"]
    assert leftovers(registry) == []
    assert registry.verify(SPEC.id[:6]).id == SPEC.id


@pytest.mark.parametrize(
    ("wish", "served"),
    [
        ({"k": 4}, True),
        ({"temperatures": [2]}, True),
        ({"k": 8, "temperatures": [4, 1]}, True),
        ({"k": 9}, False),
        ({"k": 0}, False),
        ({"temperatures": [1, 3]}, False),
        ({"k": 4, "dataset": "d2"}, False),
        ({"k": 4, "teacher": "another"}, False),
    ],
)
def test_a_larger_cache_of_the_same_teacher_and_data_serves_a_smaller_wish(
    registry: Registry, wish: dict[str, Any], served: bool
) -> None:
    put(registry)
    found = registry.find(spec(**wish))
    assert (found is not None) == served
    if found is not None:
        assert found.is_view
        assert found.id == SPEC.id
        assert found.wish.fields["k"] == wish.get("k", 8)


def test_only_logits_are_served_from_something_larger(registry: Registry) -> None:
    put(registry, ArtifactSpec("synthetic", FIELDS))
    assert registry.find(ArtifactSpec("synthetic", FIELDS | {"k": 4})) is None


def test_each_use_is_a_line_and_n_counts_runs_not_lines(registry: Registry) -> None:
    made = put(registry)
    for run_id in ("r1", "r2", "r1"):
        made.record_use(run_id, "kd", "S", 0)
    with (made.folder / "uses.jsonl").open("a") as torn:
        torn.write('{"run_id": "r3"')  # a power cut in the midst of a line
    made.record_use("r4", None, None, None)
    assert [u["run_id"] for u in made.uses()] == ["r1", "r2", "r1", "r4"]
    assert made.n == 3
    assert made.uses()[0]["artifact_id"] == made.manifest.artifact_id
    registry.verify(made.id)  # it may grow


# ---- damage ----------------------------------------------------------------------------------------------


def altered(folder: Path) -> None:
    (folder / "part" / "vals").write_bytes(b"logitz")


def cut(folder: Path) -> None:
    (folder / "part" / "vals").write_bytes(b"log")


def missing(folder: Path) -> None:
    (folder / "index").unlink()


def foreign(folder: Path) -> None:
    (folder / "more").write_bytes(b"?")


def other_spec(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"k": 8', '"k": 9'))


def no_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (altered, "part/vals was altered"),
        (cut, "part/vals has 3 bytes"),
        (missing, "index is missing"),
        (foreign, "more is not in its manifest"),
        (other_spec, "not that of its own specification"),
        (no_json, "makes no sense"),
    ],
)
def test_damage_is_told_by_verify_with_the_file_and_a_cure(
    registry: Registry, damage: Callable[[Path], None], said: str
) -> None:
    damage(put(registry).folder)
    with pytest.raises(DistillError, match=said) as caught:
        registry.verify(SPEC.id)
    assert len(str(caught.value).splitlines()) <= 3
    assert caught.value.cure


def test_a_changed_byte_is_told_at_the_next_use_and_cured_by_making_it_again(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "artifacts")
    altered(put(registry).folder)
    code = (
        "def make(draft, stage): (draft.folder / 'x').write_text('new')\n"
        "run = energy.run('r').begin()\n"
        "try: obtain(run, registry, spec, 'teacher.logits', make)\n"
        "except DistillError as error: print(error)\n"
        "made = obtain(run, registry, spec, 'teacher.logits', make, regenerate='a byte was altered')\n"
        "print(made.manifest.regenerated['reason'])\n"
    )
    told = finish(program(tmp_path, code)).splitlines()
    assert "part/vals was altered" in told[0]
    assert "--regenerate" in told[2]
    assert told[3] == "a byte was altered"
    assert registry.verify(SPEC.id).manifest.files[0].name == "x"


def test_an_artifact_whose_manifest_is_gone_is_told_before_the_teacher_works(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "artifacts")
    (put(registry).folder / "manifest.json").unlink()
    code = (
        "def make(draft, stage): print('worked'); (draft.folder / 'x').write_text('new')\n"
        "run = energy.run('r').begin()\n"
        "try: obtain(run, registry, spec, 'teacher.logits', make)\n"
        "except DistillError as error: print(error)\n"
        "obtain(run, registry, spec, 'teacher.logits', make, regenerate='its manifest was gone')\n"
    )
    told = finish(program(tmp_path, code)).splitlines()
    assert "manifest.json is missing" in told[0]
    assert "--regenerate" in told[2]
    assert told[3:] == ["worked"]
    registry.verify(SPEC.id)


def test_what_another_process_puts_there_between_two_looks_is_not_taken_for_damaged(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = manifest.load

    def before_it_came(folder: Path) -> None:
        monkeypatch.setattr(manifest, "load", load)
        put(registry)

    monkeypatch.setattr(manifest, "load", before_it_came)
    assert registry.find(SPEC) is not None


# ---- made again ------------------------------------------------------------------------------------------


def test_what_is_made_again_needs_a_reason_and_the_predecessors_record_stays(registry: Registry) -> None:
    first = put(registry)
    first.record_use("r1", "kd", "S", 0)
    with pytest.raises(DistillError, match="it is there already"):
        put(registry)
    second = put(registry, content=b"LOGITS", regenerate="another machine")
    assert second.manifest.artifact_id != first.manifest.artifact_id
    assert second.manifest.regenerated is not None
    assert second.manifest.regenerated["predecessor"] == first.manifest.artifact_id
    assert (second.folder / "part" / "vals").read_bytes() == b"LOGITS"
    assert second.n == 0
    (kept,) = registry.root.glob("*/.superseded/*")
    assert kept.name == first.manifest.artifact_id
    assert sorted(p.name for p in kept.iterdir()) == ["README.md", "manifest.json", "uses.jsonl"]


def test_a_kill_between_the_two_renames_of_a_replacement_leaves_the_predecessor(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rename = put(registry), Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.parent.name == ".drafts":
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            put(registry, content=b"LOGITS", regenerate="why not")
    assert registry.find(SPEC) is None
    with registry.draft(SPEC):
        found = registry.find(SPEC)
    assert found is not None
    assert found.manifest == first.manifest
    registry.verify(SPEC.id)


# ---- kills, races, full disks ------------------------------------------------------------------------------


HANG = (
    "def make(draft, stage):\n"
    "    (draft.folder / 'vals').write_bytes(b'half')\n"
    "    (work / 'writing').touch()\n"
    "    time.sleep(60)\n"
    "obtain(energy.run('r').begin(), registry, spec, 'teacher.logits', make)\n"
)


@pytest.mark.fault(
    "A process killed while it writes an artifact",
    seen="Nothing: what it wrote is no artifact, and is removed by the next who makes it.",
    lost="Its work; its stage's energy counts as an attempt.",
)
def test_a_process_killed_while_it_writes_leaves_nothing_valid_and_is_swept(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "artifacts")
    writer = program(tmp_path, HANG)
    wait_for((tmp_path / "writing").exists)
    assert registry.sweep() == 0  # it lives
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    assert registry.find(SPEC) is None
    assert list(registry.all()) == []
    assert len(leftovers(registry)) == 1
    assert registry.sweep() == 1
    assert leftovers(registry) == []
    with registry.draft(SPEC) as draft:
        (attempt,) = draft.failed_attempts()
    assert attempt["status"] == "killed"
    made = put(registry)
    registry.verify(made.id)


AGAIN = (
    "for i in range(10**6):\n"
    "    with registry.draft(spec) as draft:\n"
    "        for name in 'abc': (draft.folder / name).write_bytes(bytes([i % 251]) * 100_000)\n"
    "        draft.commit(regenerate='to be killed')\n"
    "    print(i, flush=True)\n"
)


@pytest.mark.fault("A process killed while it writes an artifact")
def test_a_kill_at_any_moment_of_a_replacement_leaves_the_old_or_the_new_one_whole(tmp_path: Path) -> None:
    registry, dice = Registry(tmp_path / "artifacts"), random.Random(5)
    for _ in range(5):
        writer = program(tmp_path, AGAIN)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        time.sleep(dice.random() * 0.1)  # where in its round it is then, nobody knows
        writer.kill()
        writer.communicate()
        with registry.draft(SPEC):  # what anyone does who finds nothing
            found = registry.find(SPEC)
        assert found is not None
        registry.verify(SPEC.id)
        assert len({(found.folder / name).read_bytes() for name in "abc"}) == 1
        assert leftovers(registry) == []
        kept = {p.name for p in registry.root.glob("logits/.superseded/*/*")}
        assert kept <= {"README.md", "manifest.json"}


def test_who_makes_it_next_sweeps_what_the_killed_one_left(registry: Registry) -> None:
    torn = registry.root / "logits" / ".drafts" / f"{SPEC.id}.deadbeef"
    torn.mkdir(parents=True)
    shutil.copytree(put(registry, spec(seed=1)).folder, torn / "deep")
    put(registry)
    assert leftovers(registry) == []


def test_two_processes_that_want_the_same_make_it_once(tmp_path: Path) -> None:
    code = (
        "def make(draft, stage):\n"
        "    with open(work / 'made', 'a') as made: made.write('x')\n"
        "    (draft.folder / 'vals').write_bytes(b'v' * 1000)\n"
        "    time.sleep(0.3)\n"
        "(work / ('ready' + sys.argv[-1])).touch()\n"
        "while not (work / 'go').exists(): time.sleep(0.005)\n"
        "run = energy.run('r', pipeline='kd', student='S', seed=3).begin()\n"
        "print(obtain(run, registry, spec, 'teacher.logits', make).manifest.artifact_id)\n"
    )
    both = [program(tmp_path, code.replace("sys.argv[-1]", repr(str(n)))) for n in (1, 2)]
    wait_for(lambda: all((tmp_path / f"ready{n}").exists() for n in (1, 2)))
    (tmp_path / "go").touch()
    ids = {finish(one).strip() for one in both}
    assert len(ids) == 1
    assert (tmp_path / "made").read_text() == "x"
    found = Registry(tmp_path / "artifacts").verify(SPEC.id)
    assert found.n == 2
    assert {(u["pipeline"], u["student"], u["seed"]) for u in found.uses()} == {("kd", "S", 3)}


FILL = (
    "def make(draft, stage):\n"
    "    with open(draft.folder / 'vals', 'wb') as vals:\n"
    "        for _ in range(64): vals.write(b'v' * 2**16)\n"
    "try: obtain(energy.run('r').begin(), registry, spec, 'teacher.logits', make)\n"
    "except DistillError as error: print(error)\n"
    "with registry.draft(spec) as draft: print([a['status'] for a in draft.failed_attempts()])\n"
)


def small_disk() -> list[str] | None:
    """A command that mounts 2 MiB over the registry for itself; None where that is not allowed."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return None
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False
    )
    return ["unshare", "--mount", "sh", "-c"] if tried.returncode == 0 else None


@pytest.mark.fault(
    "No space for an artifact",
    seen="One error: no space is left, where, and what to do.",
    lost="That artifact; nothing half made stays, and the room is given back.",
)
def test_a_full_disk_leaves_no_half_artifact_and_one_clear_error(tmp_path: Path) -> None:
    root, check = tmp_path / "artifacts", "import os\n"
    root.mkdir()
    check += "print(sorted(str(p.relative_to(work)) for p in work.rglob('*') if p.is_file()))\n"
    enter = small_disk()
    limit = "" if enter else "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
    process = program(tmp_path, limit + FILL + check)
    if enter:  # the same program, on a small disk
        process.kill()
        process.communicate()
        code = process.args[-1]  # type: ignore[index]
        command = [
            *enter,
            f'mount -t tmpfs -o size=2m tmpfs {root} && exec "$0" -c "$1"',
            sys.executable,
            code,
        ]
        shutil.rmtree(root)
        root.mkdir()
        env = os.environ | {"ENERGYD_DISABLE": "1"}
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    told = finish(process).splitlines()
    assert told[0] == "the artifact was not made: " + room.NO_ROOM[28 if enter else 27]
    assert told[1].startswith("  where: ")
    assert told[2].startswith("  cure: make room")
    assert told[3] == "['error']"
    kept = [f"artifacts/logits/.attempts/{SPEC.id}.jsonl", f"artifacts/logits/.locks/{SPEC.id}"]
    assert told[4] == str(kept)


def test_an_error_of_the_maker_is_passed_on_as_it_is_and_noted(tmp_path: Path) -> None:
    code = (
        "def make(draft, stage): raise ValueError('no such column')\n"
        "try: obtain(energy.run('r').begin(), registry, spec, 'teacher.logits', make)\n"
        "except ValueError as error: print(error)\n"
        "with registry.draft(spec) as draft: print(draft.failed_attempts()[0]['reason']['total'])\n"
    )
    assert finish(program(tmp_path, code)).splitlines() == [
        "no such column", "not measured: ENERGYD_DISABLE is set",
    ]  # fmt: skip
    assert leftovers(Registry(tmp_path / "artifacts")) == []


def test_nothing_written_is_no_artifact(registry: Registry) -> None:
    with pytest.raises(DistillError, match="nothing was written"), registry.draft(SPEC) as draft:
        draft.commit()
    assert registry.find(SPEC) is None


def test_a_link_in_a_draft_is_refused(registry: Registry) -> None:
    with registry.draft(SPEC) as draft:
        (draft.folder / "vals").symlink_to("/etc/hostname")
        with pytest.raises(DistillError, match="no plain file"):
            draft.commit()
    assert registry.find(SPEC) is None


def test_a_ledger_of_other_counts_than_the_four_is_refused(registry: Registry) -> None:
    with registry.draft(SPEC) as draft:
        (draft.folder / "vals").write_bytes(b"v")
        with pytest.raises(DistillError, match="not tokens"):
            draft.commit(ledger={"label": 3, "tokens": 4})
    assert registry.find(SPEC) is None


def test_lines_of_many_processes_at_once_are_all_whole(tmp_path: Path) -> None:
    code = (
        "from energyd_pipelines.artifacts import uses\n"
        "for i in range(40): uses.append(work / 'uses.jsonl', {'i': i, 'pad': 'x' * 500})\n"
    )
    for one in [program(tmp_path, code) for _ in range(3)]:
        finish(one)
    assert sorted(u["i"] for u in lines.read(tmp_path / "uses.jsonl")) == sorted(3 * list(range(40)))


def test_a_model_of_the_hub_whose_commit_nobody_tells_is_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig, PretrainedConfig

    from energyd_pipelines.config import ModelConfig
    from energyd_pipelines.identity import weights_hash_of

    told = PretrainedConfig()
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda ref, revision: told)
    told._commit_hash = "8f2a"
    assert weights_hash_of(ModelConfig(name="T", ref="us/teacher")) == "8f2a"
    told._commit_hash = None
    with pytest.raises(DistillError, match="which commit of us/teacher"):
        weights_hash_of(ModelConfig(name="T", ref="us/teacher"))
