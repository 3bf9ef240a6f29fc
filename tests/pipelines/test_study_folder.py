"""Has every execution of a study its own folder, and nobody else in it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from energyd_pipelines import study_folder
from energyd_pipelines.config import load
from energyd_pipelines.errors import DistillError
from energyd_pipelines.study_folder import alone_in, new_folder, newest_folder


def test_two_studies_that_begin_in_one_second_have_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_folder.time, "strftime", lambda _: "20261124-120000")
    config = load("quick", [f"out={tmp_path}/runs"])
    folders = [new_folder(config) for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(f.is_dir() for f in folders)


@pytest.mark.parametrize("out", ["taken", "taken/below", "/proc/nowhere"])
def test_results_that_cannot_be_put_where_they_should_are_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(DistillError) as refused:
        new_folder(load("quick", [f"out={tmp_path / out}"]))
    assert refused.value.code == 2
    assert str(tmp_path / out) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 3


def test_one_process_alone_works_in_a_study_and_the_next_may_when_it_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with alone_in(folder):
        (folder / "sft-S-0").mkdir()
        with pytest.raises(DistillError, match="running already") as refused, alone_in(folder):
            pass
        assert refused.value.code == 75
    with alone_in(folder):
        pass


def test_a_name_with_brackets_is_found_again(tmp_path: Path) -> None:
    config = load("quick", [f"out={tmp_path}/runs", "name='x[1]*'"])
    begun = new_folder(config)
    (begun / "sft-S-0").mkdir()
    (begun / "sft-S-0" / "state.json").touch()
    assert newest_folder(config) == begun


def test_an_execution_that_began_nothing_is_never_the_one_to_go_on_with(tmp_path: Path) -> None:
    config = load("quick", [f"out={tmp_path}/runs"])
    begun, refused, killed = (new_folder(config) for _ in range(3))
    (begun / "sft-S-0").mkdir()
    (begun / "sft-S-0" / "state.json").touch()
    with pytest.raises(RuntimeError), alone_in(refused):
        raise RuntimeError("another tokenizer")
    assert not refused.exists()
    assert killed.exists()
    assert newest_folder(config) == begun
