"""Does `energyq report --check` hold a study to docs/protocol.md, and say what to do where it falls short?"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from energyq.checks import CHECKS, checks, shown
from energyq.commands import run
from energyq.study import Details, Execution, Study

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def good() -> Study:
    """A study with nothing to complain of: two pipelines, one size, three seeds."""

    def one(pipeline: str, seed: int) -> Execution:
        stages: dict[str, float | None] = dict.fromkeys(
            ("prerun", "preprocess", "student.train", "evaluate"), 9.0
        )
        if pipeline == "kd":
            stages["teacher.logits"] = 20.0
        return Execution(
            pipeline, "1B", str(seed), f"{pipeline}{seed}", "budget", stages, dict.fromkeys(stages, 0.1),
            {s: Details(tokens=5, token_unit="label", coverage=1.0, starved_share=0.01) for s in stages},
            0.8, 700, frozenset({"a"} if pipeline == "kd" else ()), {"a": []} if pipeline == "kd" else {}, 3,
            {"hardware": "H100", "driver": "580", "domains": "gpu measured", "tokenizer": "t",
             "train_config": "c"}, "abc",
        )  # fmt: skip

    return Study("s", [one(p, s) for p in ("sft", "kd") for s in range(3)], from_store=True)


def no_teacher(study: Study) -> None:
    del study.executions[-1].stages["teacher.logits"]


def no_prerun(study: Study) -> None:
    del study.executions[0].stages["prerun"]


def other_driver(study: Study) -> None:
    study.executions[0].facts["driver"] = "570"


def silent_tokenizer(study: Study) -> None:
    del study.executions[2].facts["tokenizer"]


def other_stop(study: Study) -> None:
    study.executions[-1].stop = "to_target"


def one_seed_less(study: Study) -> None:
    study.executions.pop()


def no_examples(study: Study) -> None:
    study.executions[1].quality_n = None


def no_tokens(study: Study) -> None:
    study.executions[1].details["student.train"].tokens = None


def nothing_counted(study: Study) -> None:
    for execution in study.executions:
        execution.uses = None


def poor_card(study: Study) -> None:
    study.executions[-1].cards["a"] = ["sha256"]


def simulated(study: Study) -> None:
    study.executions[0].facts["domains"] = "gpu simulated"


def from_elsewhere(study: Study) -> None:
    study.executions[3].reported = frozenset({"teacher.logits"})


def holes(study: Study) -> None:
    study.executions[3].details["teacher.logits"].coverage = 0.9


def no_doubt(study: Study) -> None:
    study.executions[3].u_stages["evaluate"] = None


def waits(study: Study) -> None:
    study.executions[3].details["student.train"].starved_share = 0.4


def no_version(study: Study) -> None:
    study.executions[3].version = None


SPOILT: list[tuple[Callable[[Study], None], set[str], str]] = [
    (no_teacher, {"full-pipeline"}, "kd 1B budget seed 2"),
    (no_prerun, {"stages"}, "sft 1B budget seed 0 (prerun)"),
    (other_driver, {"alike"}, "driver: 570 / 580"),
    (silent_tokenizer, {"alike"}, "tokenizer (not said for 1 of 6)"),
    (other_stop, {"budget", "seeds"}, "to_target (no baseline)"),
    (one_seed_less, {"seeds"}, "kd 1B"),
    (no_examples, {"quality"}, "sft 1B budget seed 1 (examples)"),
    (no_tokens, {"tokens"}, "sft 1B budget seed 1"),
    (nothing_counted, {"reuse"}, "are counted or assumed, but not here"),
    (poor_card, {"artifacts"}, "card of a (sha256)"),
    (simulated, {"measured", "alike"}, "sft 1B budget seed 0 (gpu simulated)"),
    (from_elsewhere, {"measured"}, "kd 1B budget seed 0 (teacher.logits reported)"),
    (holes, {"covered"}, "kd 1B budget seed 0"),
    (no_doubt, {"doubt"}, "kd 1B budget seed 0"),
    (waits, {"starved"}, "kd 1B budget seed 0 (STARVED)"),
    (no_version, {"version"}, "kd 1B budget seed 0"),
]


def unmeasured_wait(study: Study) -> None:
    study.executions[3].details["student.train"].starved_share = None


def test_a_study_that_trained_on_the_cpu_alone_starved_no_gpu() -> None:
    study = good()
    unmeasured_wait(study)
    assert [c.id for c in checks(study, None) if not c.passed] == ["starved"]  # a GPU's wait must be known
    for execution in study.executions:
        execution.facts["domains"] = "gpu absent, cpu measured, dram absent"
    assert [c.id for c in checks(study, None) if not c.passed] == []


def test_a_study_that_keeps_the_protocol_passes_every_check() -> None:
    done = checks(good(), None)
    assert [c.id for c in done if not c.passed] == []
    assert (
        list(shown(good(), done))[-1]
        == f"{len(CHECKS)} of {len(CHECKS)} checks of the protocol passed for study s"
    )


@pytest.mark.parametrize(("spoil", "failing", "named"), SPOILT, ids=lambda x: getattr(x, "__name__", None))
def test_each_fault_fails_its_check_alone_and_is_named_with_a_cure(
    spoil: Callable[[Study], None], failing: set[str], named: str
) -> None:
    study = copy.deepcopy(good())
    spoil(study)
    failed = [c for c in checks(study, None) if not c.passed]
    assert {c.id for c in failed} == failing
    assert any(named in c.text for c in failed)
    assert all(c.cure for c in failed)


def test_every_check_was_seen_to_fail() -> None:
    assert {name for _, failing, _ in SPOILT for name in failing} == set(CHECKS)


def test_reuse_that_is_assumed_is_stated() -> None:
    study = good()
    nothing_counted(study)
    (reuse,) = [c for c in checks(study, 6) if c.id == "reuse"]
    assert (reuse.passed, reuse.text) == (True, "ok: reuse, not counted; assumed here: 6")


def test_the_page_and_the_code_have_the_same_checks_in_the_same_order() -> None:
    table = PAGE.read_text().partition("## Checklist")[2]
    assert re.findall(r"(?m)^\| \*\*([a-z-]+)\*\* \| \S", table) == list(CHECKS)


def test_the_command_exits_4_with_cures_and_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", "--check", "--study", "poster", "--format", "table"]) == 4
    text = capsys.readouterr().out
    assert "ok: full-pipeline" in text
    assert "NOT: quality, quality is known for every run" in text
    assert "  cure: run.metric('exact_match', 0.81, n=700), or --metric NAME" in text
    assert run(["report", "--check", "--study", "poster", "--reuse", "6", "--format", "json"]) == 4
    told = {c["id"]: c["passed"] for c in json.loads(capsys.readouterr().out)}
    assert list(told) == list(CHECKS)
    assert told["reuse"] is True
    assert run(["report", "kd", "--check"]) == 2


def test_mixed_set_ups_are_a_failed_check_and_no_refusal() -> None:
    study = good()
    study.executions[0] = replace(
        study.executions[0], facts={**study.executions[0].facts, "hardware": "A100"}
    )
    (alike,) = [c for c in checks(study, None) if not c.passed]
    assert "hardware: A100 / H100" in alike.text
