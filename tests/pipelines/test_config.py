"""Does a configuration say what it means, and what is wrong with it?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from energyd_pipelines.config import Config, load, presets
from energyd_pipelines.errors import DistillError


def refused(*words: str, source: str = "tiny") -> str:
    with pytest.raises(DistillError) as caught:
        load(source, words)
    assert caught.value.code == 2
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.mark.parametrize("name", [p for p in presets() if p != "h100"])
def test_every_preset_is_a_study_and_its_name_is_in_the_runs_folder(name: str) -> None:
    config = load(name)
    assert name.endswith(config.name)
    needs_teacher = {"kd", "synthetic"} & set(config.pipelines)
    assert (config.teacher is not None) == bool(needs_teacher)


def test_dotted_words_override_what_the_file_says() -> None:
    config = load(
        "tiny", ["train.steps=300", "students.0.width=32", "kd.tau=2", "seeds=[0, 1]", "train.lr=5e-3"]
    )
    assert (config.train.steps, config.students[0].width, config.kd.tau) == (300, 32, 2.0)
    assert (config.seeds, config.train.lr) == ((0, 1), 0.005)


def test_an_unknown_key_names_its_group_and_the_nearest_one() -> None:
    said = refused("train.step=300")
    assert "unknown key train.step" in said
    assert "did you mean train.steps?" in said
    assert "unknown key trian" in refused("trian.steps=300")


@pytest.mark.parametrize(
    ("word", "cure"),
    [
        ("train.steps=many", "a whole number"),
        ("train.steps=true", "a whole number"),
        ("train.lr=[1]", "a number"),
        ("kd.tail=round", "bucket | renorm | none"),
        ("pipelines=[sft, dpo]", "sft | kd | synthetic"),
        ("students.9.width=4", "0 to 2"),
        ("train.steps", "key=value"),
        ("kd=[", "mend the line"),
        ("train.bucket=1", "true or false"),
        ("train.lora.r.x=1", "a whole number"),
        ("train.stop=to_target", "train.target=0.6"),
        ("train={optimizer: adafactor, lora: {r: 4}}", "train.optimizer=adamw"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_what_it_must_be(word: str, cure: str) -> None:
    assert cure in refused(word)


def test_a_file_without_students_and_a_name_that_is_no_preset_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n")
    assert "students is not set" in refused(source=str(file))
    assert "tiny" in refused(source="tiney")
    assert "cannot read" in refused(source=str(tmp_path / "none.yaml"))


def test_a_saved_configuration_is_the_same_configuration(tmp_path: Path) -> None:
    import yaml

    config = load("tiny", ["train.steps=300", "train.lora.r=4"])
    file = tmp_path / "again.yaml"
    file.write_text(yaml.safe_dump(config.as_dict()))
    assert load(str(file)) == config


def test_the_hashes_change_with_what_decides_results_and_with_nothing_else() -> None:
    one = load("tiny")
    elsewhere = load("tiny", ["out=other", "reuse.root=other", "seeds=[5]"])
    assert (elsewhere.hash, elsewhere.train_hash) == (one.hash, one.train_hash)
    other_student = load("tiny", ["students.0.width=32"])
    assert other_student.hash != one.hash
    assert other_student.train_hash == one.train_hash
    for word in ("train.lr=1", "train.lora.r=4", "data.noise=0.1"):
        assert load("tiny", [word]).train_hash != one.train_hash, word
    assert isinstance(one, Config)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.steps=-3", "train.steps is -3"),
        ("train.batch=0", "train.batch is 0"),
        ("train.lr=nan", "train.lr is nan"),
        ("train.lr=.inf", "train.lr is inf"),
        ("train.group_steps=0", "train.group_steps is 0"),
        ("data.n=0", "made to order"),
        ("data.n_eval=0", "nothing to measure quality on"),
        ("data.noise=1.5", "from 0 to 1"),
        ("kd.tau=0", "kd.tau is 0"),
        ("kd.temperatures=[1, -2]", "kd.temperatures is [1.0, -2.0]"),
        ("kd.temperatures=[1e300]", "all from 0.01 to 1000"),
        ("kd.tau=1e-300", "from 0.01 to 1000"),
        ("generate.top_p=0", "from 1e-06 to 1"),
        ("prerun.idle_s=-1", "prerun.idle_s is -1"),
        ("evaluate.batch=0", "evaluate.batch is 0"),
        ("pipelines=[]", "pipelines is []"),
        ("seeds=[1, 1]", "each once"),
        ("students=[]", "nothing would be trained"),
        ("students=[{name: S}, {name: S}]", "two students are called S"),
        ("students=[{name: a/b}]", "no folder's name"),
        ("teacher=null", "pipeline kd needs a teacher"),
        ("reuse.regenerate=' '", "needs a reason"),
        ("train.lr=1" + "0" * 400, "a number"),
        ("train.weight_decay=.inf", "train.weight_decay is inf"),
        ("train.lora.dropout=3", "train.lora.dropout is 3"),
        ("train.target=.nan", "train.target is nan"),
        ("generate.temperature=.inf", "generate.temperature is inf"),
        ("generate.top_p=1e-320", "generate.top_p is 1e-320"),
        ("generate.seed=-1", "from 0 to 2^63 - 1"),
        ("data.seed=-1", "from 0 to 2^63 - 1"),
        ("seeds=[0, 36893488147419103232]", "each from 0 to 2^63 - 1"),
        ("prerun.idle_s=.inf", "prerun.idle_s is inf"),
        ("site.pue=-1", "site.pue is -1"),
        ("site.grid_g_per_kwh=.nan", "site.grid_g_per_kwh is nan"),
        ("threads=100000", "from 1 to 1024"),
        ("device=tpu", "auto, cpu, cuda or cuda:N"),
        ("students.0.width=-16", "width of model M is -16"),
        ("students.0.layers=0", "layers of model M is 0"),
        ("students.0.heads=0", "heads of model M is 0"),
        ("students.0.ffn=-8", "ffn of model M is -8"),
        ("students=[{name: " + "a" * 300 + "}]", "no folder's name"),
        ("name=../elsewhere", "what a folder can be called"),
        ('name="a\\nb"', "what a folder can be called"),
        ('out="a\\0b"', "a word without"),
        ("evaluate.lm_eval='{model}.json'", "{student}, {pipeline} and {seed}"),
        ("evaluate.lm_eval='{'", "{student}, {pipeline} and {seed}"),
        ("data.n=99999999", "data.n and data.n_eval are 100000349 strings"),
        ("data.task=jsonl", "data.path is empty"),
        ("teacher={name: T}", "teacher T has no ref"),
        ("teacher.layers=-1", "layers of model strings-v1 is -1"),
        ("seeds=[0, -1]", "each from 0 to 2^63 - 1"),
        ("train.lora.dropout=1", "below 1"),
        ("site.pue=0.5", "site.pue is 0.5"),
        ("site.grid_g_per_kwh=-1", "site.grid_g_per_kwh is -1"),
        ("generate={graph: true, static_cache: false}", "does not grow"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_before_anything_runs(word: str, said: str) -> None:
    with pytest.raises(DistillError, match=re.escape(said)) as caught:
        load("quick", [word])
    assert caught.value.code == 2
    assert len(str(caught.value).splitlines()) <= 3


def test_more_strings_than_there_are_would_be_drawn_for_ever_and_are_refused() -> None:
    with pytest.raises(DistillError, match="up to 4320 with"):
        load("quick", ["data.longest=3", "data.n=6000"])


def test_a_file_that_names_students_alone_gets_what_fits_all_sizes_and_is_least_biased(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.yaml").write_text("students: [{name: S}]\npipelines: [sft]\n")
    mine = load(str(tmp_path / "mine.yaml"))
    assert (mine.train.optimizer, mine.train.attention, mine.train.bucket) == ("adafactor", "sdpa", True)
    assert (mine.train.stop, mine.kd.tail, mine.kd.temperatures) == ("budget", "bucket", (1.0, 2.0, 4.0))
    assert (mine.generate.static_cache, mine.generate.batch) == (True, 0)  # the largest that fits
    assert mine.threads == 1  # more of them spin


def test_the_readmes_study_of_the_posters_models_can_be_loaded(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "pipelines" / "README.md").read_text()
    (tmp_path / "olmo2.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    study = load(str(tmp_path / "olmo2.yaml"))
    assert [s.name for s in study.students] == ["1B", "7B", "13B"]
    assert study.train.optimizer == "adafactor"


def test_what_only_needs_a_teacher_elsewhere_loads_without_one() -> None:
    assert load("quick", ["teacher=null", "pipelines=[sft]"]).teacher is None
