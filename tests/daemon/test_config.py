"""Which setting holds, where several places speak of it, and is one that means nothing refused by name?"""

from __future__ import annotations

from pathlib import Path

import pytest

from energyd.config import SETTINGS, Config, ConfigError, Keep, resolve

EXAMPLE = Path(__file__).parents[2] / "systemd" / "energyd.toml"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own file; nothing else is set."""
    for variable in SETTINGS.values():
        if variable:
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.delenv("ENERGYD_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = tmp_path / "config" / "energyd" / "energyd.toml"
    path.parent.mkdir(parents=True)
    return path


def test_a_flag_counts_more_than_the_environment_and_that_more_than_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def raw_s(**flags: str) -> float | None:
        return resolve(store=tmp_path / "s", **flags).keep.raw_s

    assert raw_s() == Keep.raw_s
    file.write_text('keep_raw = "1h"\n')
    assert raw_s() == 3_600
    monkeypatch.setenv("ENERGYD_KEEP_RAW", "2h")
    assert raw_s() == 7_200
    assert raw_s(keep_raw="3h") == 10_800


def test_the_example_names_every_setting_and_its_lines_are_the_defaults(file: Path) -> None:
    bare = resolve()
    lines = [line.removeprefix("# ").split("  ")[0] for line in EXAMPLE.read_text().splitlines()]
    settings = [line for line in lines if line.split(" = ")[0] in SETTINGS and " = " in line]
    assert {line.split(" = ")[0] for line in settings} == set(SETTINGS) - {
        "speed"
    }  # that goes with a replay only
    places = ("store", "endpoint", "spool")  # the service's own, not everybody's default
    file.write_text("\n".join(line for line in settings if not line.startswith(places)))
    assert resolve() == Config(store=bare.store, endpoint=bare.endpoint, spool=bare.spool, file=file)
    file.write_text("\n".join(settings))
    assert str(resolve().store) == "/var/lib/energyd/store"
    file.write_text(EXAMPLE.read_text())
    assert resolve() == Config(store=bare.store, endpoint=bare.endpoint, spool=bare.spool, file=file)


def test_the_places_of_a_file_are_not_meant_for_another_store(file: Path, tmp_path: Path) -> None:
    file.write_text('store = "/a"\nendpoint = "ipc:///a/e.sock"\nspool = "/a/spool"\n')
    ours = resolve(store=tmp_path / "s")
    assert (str(ours.store), ours.endpoint) == (str(tmp_path / "s"), f"ipc://{tmp_path}/s/energyd.sock")
    theirs = resolve()
    assert (str(theirs.store), theirs.endpoint, str(theirs.spool)) == ("/a", "ipc:///a/e.sock", "/a/spool")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('keep_rwa = "7d"', "unknown setting keep_rwa in .*\n  cure: keep_raw?"),
        ('keep = "7"', "cannot read keep = '7' in "),
        ("keep = [1]", "keep in .* must be text or a number"),
        ("keep = true", "keep in .* must be text or a number"),
        ('interval = "soon"', "cannot read interval = 'soon' in .*: not a number"),
        ("interval = 0", "must be above 0"),
        ("keep = 7d", "cure: lines such as keep"),
    ],
)
def test_a_line_that_means_nothing_is_refused_with_file_and_cure(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=told) as error:
        resolve()
    assert str(file) in str(error.value) or "above 0" in told


def test_a_file_that_was_named_must_be_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().file is None
    monkeypatch.setenv("ENERGYD_CONFIG", "/nowhere/energyd.toml")
    with pytest.raises(ConfigError, match=r"/nowhere/energyd\.toml: No such file"):
        resolve()
    with pytest.raises(ConfigError, match="/else/where"):
        resolve(file=Path("/else/where"))
