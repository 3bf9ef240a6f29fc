"""Does an artifact arrive as it was made, its energy marked as reported, and nothing else with it?"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from energyd_pipelines.artifacts import Artifact, ArtifactSpec, Registry, cards, transfer
from energyd_pipelines.artifacts_cli import artifacts
from energyd_pipelines.errors import DistillError
from energyd_pipelines.production import Production, unknown
from real_daemon import Daemon

SPEC = ArtifactSpec("synthetic", {"teacher": "T", "dataset": "d", "seed": 0})
MEASURED = Production(
    energy_j={"gpu": 3.6e6, "cpu": 3.6e5, "dram": None}, reason={"dram": "absent"}, total_j=3.96e6,
    u_random_j=1e3, u_total_j=2e4, method="integral", origin="measured", coverage=1.0, duration_s=6e3,
    hardware=("1 × H100",), driver="570.1", region="CA-QC", grid_g_per_kwh=30.0, pue=1.5,
)  # fmt: skip


def put(root: Path, spec: ArtifactSpec = SPEC, production: Production = MEASURED, **more: Any) -> Artifact:
    with Registry(root).draft(spec) as draft:
        (draft.folder / "sub").mkdir()
        (draft.folder / "sub" / "text.jsonl").write_bytes(b'{"a": 1}\n' * 200)
        (draft.folder / "index").write_bytes(bytes(range(256)))
        draft.licence = "apache-2.0"
        return draft.commit(production=production, ledger={"generated": 200}, **more)


@pytest.fixture(autouse=True)
def nobody_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test does not say so, no daemon of this machine is told anything."""
    monkeypatch.setenv("ENERGYD_DISABLE", "1")


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return transfer.export(put(tmp_path / "a"), tmp_path / "out.tar")


def members(tar: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(tar) as file:
        return [(member, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]


def rewrite(tar: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """The same tar, changed."""
    content = members(tar)
    change(content)
    with tarfile.open(tar, "w") as file:
        for member, data in content:
            member.size = len(data) if member.isreg() else 0
            file.addfile(member, io.BytesIO(data))


def take_in(tmp_path: Path, tar: Path) -> tuple[Artifact, bool]:
    return transfer.take_in(Registry(tmp_path / "b"), tar)


def test_it_arrives_byte_for_byte_and_its_joules_are_reported(tmp_path: Path, tar: Path) -> None:
    arrived, new = take_in(tmp_path, tar)
    assert new
    Registry(tmp_path / "b").verify(arrived.id)
    sent = Registry(tmp_path / "a").get(SPEC.id).manifest
    got = arrived.manifest
    assert (got.files, got.artifact_id, got.ledger) == (sent.files, sent.artifact_id, sent.ledger)
    assert (got.production.total_j, got.production.origin) == (3.96e6, "reported")
    assert got.imported is not None
    assert got.imported["origin"] == "measured"
    assert (arrived.folder / "index").read_bytes() == bytes(range(256))
    assert take_in(tmp_path, tar)[1] is False
    passed_on = transfer.export(arrived, tmp_path / "again.tar")
    third, _ = transfer.take_in(Registry(tmp_path / "c"), passed_on)
    assert third.manifest.production.origin == "reported"


def test_the_same_artifact_is_exported_to_the_same_bytes(tmp_path: Path, tar: Path) -> None:
    again = transfer.export(Registry(tmp_path / "a").get(SPEC.id), tmp_path / "again.tar")
    assert tar.read_bytes() == again.read_bytes()
    assert [m.name.partition("/")[2] for m, _ in members(tar)] == [
        "manifest.json", "README.md", "index", "sub/text.jsonl",
    ]  # fmt: skip


def rename(new: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        content[2][0].name = new

    return change


def link(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content[2][0].type, content[2][0].linkname = tarfile.SYMTYPE, "/etc/passwd"


def flipped(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content[3] = (content[3][0], content[3][1].replace(b"1", b"2"))


def longer(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content[2] = (content[2][0], content[2][1] + b"x")


def without(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    del content[3]


def twice(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content.append(content[3])


def more(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content.append((tarfile.TarInfo(f"{SPEC.id}/uses.jsonl"), b"{}"))


def manifest_last(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    content.append(content.pop(0))


def says(key: str, value: Any) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    def change(content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        plain = json.loads(content[0][1])
        plain[key] = value
        content[0] = (content[0][0], json.dumps(plain).encode())

    return change


OUTSIDE = {"name": "../../evil", "bytes": 256, "sha256": hashlib.sha256(bytes(range(256))).hexdigest()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename(f"{SPEC.id}/../../evil"), "not in its manifest"),
        (rename("/tmp/evil"), "not in its manifest"),
        (says("files", [OUTSIDE]), "leaves the artifact's folder"),
        (says("files", [OUTSIDE | {"name": "/tmp/evil"}]), "leaves the artifact's folder"),
        (says("files", [OUTSIDE | {"name": "manifest.json"}]), "lists a file twice, or itself"),
        (says("spec", {"teacher": "another"}), "not that of its own specification"),
        (says("id", "0" * 32), "not that of its own specification"),
        (says("kind", "weights"), "no artifact is a 'weights'"),
        (says("schema_version", 2), "has version 2"),
        (says("production", None), "makes no sense"),
        (says("ledger", None), "ledger is None"),
        (says("ledger", {"label": -3}), "-3 label tokens"),
        (says("signal", 3), "signal is 3"),
        (says("parents", ["a"]), "a parent is 'a'"),
        (says("created", 3), "created is 3"),
        (says("regenerated", 3), "regenerated is 3"),
        (says("imported", "x"), "imported is 'x'"),
        (says("production", {"energy_j": {}, "total_j": -5}), "total_j is -5"),
        (says("production", {"energy_j": {}, "total_j": float("nan")}), "total_j is nan"),
        (says("production", {"energy_j": {}, "total_j": "many"}), "total_j is 'many'"),
        (says("production", {"energy_j": {"gpu": -7.0}}), "energy_j of gpu is -7.0"),
        (says("production", {"energy_j": "x"}), "energy_j is 'x'"),
        (link, "index is no plain file"),
        (flipped, "sub/text.jsonl was altered"),
        (longer, "index has 257 bytes"),
        (without, "sub/text.jsonl is missing"),
        (twice, "not in its manifest, or twice"),
        (more, "not in its manifest"),
        (manifest_last, "does not begin with a manifest"),
    ],
)
def test_a_tar_that_is_not_as_it_was_exported_is_refused_and_leaves_nothing(
    tmp_path: Path, tar: Path, change: Callable[..., None], said: str
) -> None:
    rewrite(tar, change)
    with pytest.raises(DistillError, match=said) as caught:
        take_in(tmp_path, tar)
    assert len(str(caught.value).splitlines()) <= 3
    assert [p for p in (tmp_path / "b").rglob("*") if p.is_file() and p.parent.name != ".locks"] == []
    assert sorted(p.name for p in tmp_path.iterdir()) in (["a", "b", "out.tar"], ["a", "out.tar"])


def test_a_tar_cut_anywhere_and_one_that_is_none_are_refused(tmp_path: Path, tar: Path) -> None:
    whole = tar.read_bytes()
    for cut in (0, 100, 700, 5000, len(whole) - 10_000):
        tar.write_bytes(whole[:cut])
        with pytest.raises(DistillError):
            take_in(tmp_path, tar)
    tar.write_bytes(b"no tar" * 1000)
    with pytest.raises(DistillError, match="no whole tar"):
        take_in(tmp_path, tar)
    assert list(Registry(tmp_path / "b").all()) == []


def test_a_damaged_artifact_is_not_exported(tmp_path: Path) -> None:
    made = put(tmp_path / "a")
    (made.folder / "index").write_bytes(bytes(256))
    with pytest.raises(DistillError, match="index was altered"):
        transfer.export(made, tmp_path / "out.tar")
    assert not (tmp_path / "out.tar").exists()


# ---- cards -----------------------------------------------------------------------------------------------


def matter(text: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_card_has_the_hubs_emissions_block_and_our_manifest(tmp_path: Path) -> None:
    made = put(tmp_path / "a")
    text = (made.folder / "README.md").read_text()
    front = matter(text)
    assert front["license"] == "apache-2.0"
    block = front["co2_eq_emissions"]
    assert block["emissions"] == pytest.approx(
        3.96e6 / 3.6e6 * 1.5 * 30
    )  # grams: 1.1 kWh in a building of PUE 1.5
    assert block["geographical_location"] == "CA-QC"
    assert block["hardware_used"] == "1 × H100"
    assert block["source"].endswith("measured")
    assert "training_type" not in block  # generating text trains nothing
    fenced = text.split("```json\n")[1].split("\n```")[0]
    assert json.loads(fenced) == json.loads((made.folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("production", "why"),
    [
        (Production(energy_j={"gpu": 5.0}, total_j=5.0, origin="measured"), "g CO2eq per kWh is not known"),
        (unknown("not measured: no daemon", grid_g_per_kwh=30.0), "since not measured: no daemon"),
    ],
)
def test_grams_that_are_not_known_are_left_out_with_a_sentence_and_never_0(
    tmp_path: Path, production: Production, why: str
) -> None:
    text = (put(tmp_path / "a", production=production).folder / "README.md").read_text()
    assert "emissions" not in matter(text)["co2_eq_emissions"]
    assert why in " ".join(text.split())


def test_a_students_card_says_what_it_was_trained_from_and_names_its_parents(tmp_path: Path) -> None:
    parent = put(tmp_path / "a")
    student = ArtifactSpec(
        "student", {"student": "S", "base_model": "allenai/OLMo-2-0425-1B", "parent": parent.id}
    )
    made = put(tmp_path / "a", student, parents=[parent])
    text = (made.folder / "README.md").read_text()
    assert matter(text)["base_model"] == "allenai/OLMo-2-0425-1B"
    assert matter(text)["co2_eq_emissions"]["training_type"] == "fine-tuning"
    assert f"synthetic `{parent.id}`, 3.96e+06 J" in text
    (told,) = made.manifest.parents
    assert told["energy_j"] == parent.manifest.production.energy_j
    assert cards.card(made.manifest) == text


# ---- the command -----------------------------------------------------------------------------------------


def distill(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(artifacts, [str(w) for w in words])
    return done.exit_code, done.stdout, done.stderr


def test_list_show_and_verify_tell_what_is_there(tmp_path: Path) -> None:
    root = tmp_path / "a"
    assert distill("list", "--root", root) == (0, f"no artifacts in {root}\n", "")
    made = put(root)
    made.record_use("r1", "kd", "S", 0)
    _, table, _ = distill("list", "--root", root)
    assert table.splitlines()[1].split()[:7] == [
        made.id[:12],
        "synthetic",
        "2.1",
        "kB",
        "3.96e+06",
        "J",
        "measured",
    ]
    (one,) = json.loads(distill("list", "--root", root, "--json")[1])
    assert (one["id"], one["uses_n"], one["energy_j"]["dram"], one["size_bytes"]) == (made.id, 1, None, 2056)
    shown = json.loads(distill("show", made.id[:4], "--root", root, "--json")[1])
    assert shown["uses"][0]["run_id"] == "r1"
    assert yaml.safe_load(distill("show", made.id[:4], "--root", root)[1]) == shown
    assert distill("verify", "--root", root)[:2] == (0, f"{made.id[:12]}  whole\n")
    (made.folder / "index").write_bytes(bytes(256))
    code, told, _ = distill("verify", "--root", root)
    assert (code, told) == (
        1,
        f"{made.id[:12]}  DAMAGED: index was altered: its SHA-256 is not the manifest's\n",
    )
    assert json.loads(distill("verify", "--root", root, "--json")[1])[0]["problems"]


def test_export_and_import_by_command(tmp_path: Path) -> None:
    made = put(tmp_path / "a")
    out = tmp_path / "x.tar"
    assert distill("export", made.id[:5], "-o", out, "--root", tmp_path / "a")[:2] == (0, f"{out}\n")
    code, told, _ = distill("import", out, "--root", tmp_path / "b", "--json")
    found = json.loads(told)
    assert (code, found["origin"], found["new"]) == (0, "reported", True)
    assert "is here already" in distill("import", out, "--root", tmp_path / "b")[1]


def test_an_import_is_told_to_the_daemon_that_runs_here(measuring: Daemon, tmp_path: Path, tar: Path) -> None:
    done = measuring.run("energyd_pipelines.artifacts_cli", "import", str(tar), "--root", str(tmp_path / "b"))
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = measuring.query("SELECT *, attrs->>'total_j' AS j, attrs->>'origin' AS origin FROM artifacts")
    arrived = Registry(tmp_path / "b").get(SPEC.id).manifest
    assert (row["artifact_id"], row["sha256"], row["stage_id"]) == (arrived.artifact_id, arrived.sha256, None)
    assert (float(row["j"]), row["origin"]) == (3.96e6, "reported")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["show", "ffff"], 1, "no artifact 'ffff'"),
        (["show", "../x"], 1, "no artifact '../x'"),
        (["export", "ffff"], 1, "no artifact"),
        (["import", __file__], 1, "no whole tar"),
        (["verify"], 1, "nothing to verify"),
        (["list", "--root", __file__], 2, "the registry is no folder"),
    ],
)
def test_a_wrong_word_gets_one_error_of_three_lines(
    tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    root = [] if "--root" in words else ["--root", str(tmp_path)]
    found, out, err = distill(*words, *root)
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) <= 3
