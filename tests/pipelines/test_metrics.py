"""Are lm-eval's figures read, and is what is none of its files refused?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from energyd_pipelines.errors import DistillError
from energyd_pipelines.metrics import read_lm_eval

RESULTS = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k", "exact_match,strict-match": 0.51, "exact_match_stderr,strict-match": 0.01,
            "exact_match,flexible-extract": 0.55,
        },
        "ifeval": {"alias": "ifeval", "acc,none": 0.4, "acc_stderr,none": "N/A"},
    },
    "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
}  # fmt: skip


def test_every_figure_gets_its_task_and_its_number_of_examples(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "model"
    folder.mkdir(parents=True)
    (folder / "results_2026-11-24T10-00-00.json").write_text(json.dumps(RESULTS))
    assert read_lm_eval(tmp_path / "out") == [
        ("gsm8k/exact_match,strict-match", 0.51, 100),
        ("gsm8k/exact_match,flexible-extract", 0.55, 100),
        ("ifeval/acc,none", 0.4, None),
    ]


@pytest.mark.parametrize("text", ["{", "[]", '{"results": 3}', '{"results": {"a": {"b": "N/A"}}}'])
def test_what_is_no_result_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DistillError, match="result file"):
        read_lm_eval(tmp_path / "r.json")
    with pytest.raises(DistillError, match="no result"):
        read_lm_eval(tmp_path / "none.json")
