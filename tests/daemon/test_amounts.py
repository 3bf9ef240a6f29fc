"""Is a number, a key or a name that cannot be meant refused before anything is done with it?"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from energyd.cli import main
from energyd.config import ConfigError, resolve

KEY = "0" * 39


@pytest.mark.parametrize(
    "typed",
    [
        f"{command} {number}"
        for number in ("nan", "inf", "-1")
        for command in ("top --interval", "top --seconds", "top --carbon", "doctor --timeout",
                        "run --idle", "record ./t --seconds")
    ] + ["top --interval 0", "top --seconds 0", "record ./t --seconds 0"],
)  # fmt: skip
def test_a_number_that_no_option_can_mean_is_a_usage_error(typed: str) -> None:
    done = CliRunner().invoke(main, [*typed.split(), *(["--", "true"] if typed.startswith("run") else [])])
    assert done.exit_code == 2, done.output
    assert f"Invalid value for '{typed.split()[-2]}'" in done.stderr


def test_a_bill_that_cannot_be_written_is_refused_before_its_command_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    where = tmp_path / "nowhere" / "bill.json"
    done = CliRunner().invoke(main, ["run", "--json", str(where), "--", "touch", str(ran)])
    assert (done.exit_code, f"no folder {where.parent}" in done.stderr) == (2, True), done.stderr
    assert not ran.exists()


@pytest.mark.parametrize("key", ["speed", "interval_s"])
@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_setting_that_is_no_finite_number_is_refused(key: str, number: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a number"):
        resolve(store=tmp_path, source="replay:x", **{key.removesuffix("_s"): number})


@pytest.mark.parametrize("duration", ["0s", "25h", "5", "-5m"])
def test_a_release_of_no_time_or_of_days_is_a_usage_error(duration: str) -> None:
    done = CliRunner().invoke(main, ["release", "--for", duration])
    assert (done.exit_code, "cure: such as 90s, 5m or 2h" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["trust", "gpu7", "short"], "5 characters of 40"),
        (["trust", "gpu7", KEY + "é"], "no key has 'é' in it"),
        (["trust", "gpu 7", KEY + "0"], "'gpu 7' is no name"),
        (["allow", KEY + "\n", "ada"], "no key"),
        (["allow", KEY + "0", "ada\nmallory"], "is no name"),
        (["allow", KEY + "0", ""], "is no name"),
    ],
)
def test_a_key_or_name_that_would_spoil_the_file_of_keys_is_refused(
    words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENERGYD_KEYS", str(tmp_path))
    store = ["--store", str(tmp_path / "s")] if words[0] == "allow" else []
    done = CliRunner().invoke(main, ["keys", *words, *store])
    assert (done.exit_code, wrong in done.stderr) == (2, True), done.stderr
    assert list(tmp_path.iterdir()) == []
