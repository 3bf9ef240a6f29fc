"""Is every example seen once an epoch, whoever asks, and is padding never learnt?"""

from __future__ import annotations

import numpy as np
import pytest

from energyd_pipelines.batches import Schedule, collate
from energyd_pipelines.config import DataConfig
from energyd_pipelines.data import dataset_of, prepare
from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import NO_LABEL, Dataset, Example
from energyd_pipelines.strings_task import CharTokenizer


@pytest.fixture(scope="module")
def data() -> Dataset:
    return prepare(DataConfig(n=500, n_eval=5), CharTokenizer()).train


def test_padding_and_prompts_are_no_labels_and_the_counts_differ() -> None:
    examples = [Example(np.array(t, np.uint32), p) for t, p in (([5, 6, 7, 1], 2), ([5, 1], 1))]
    batch = collate(dataset_of(examples, CharTokenizer()), [0, 1])
    no = NO_LABEL
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 1], [5, 1, 0, 0]]
    assert batch.labels_BT.tolist() == [[no, no, 7, 1], [no, 1, no, no]]
    assert batch.counts.units() == {"positions": 8, "nonpad": 6, "label": 3}


@pytest.mark.parametrize("bucket", [True, False])
def test_an_epoch_shows_every_example_once_and_the_next_in_another_order(data: Dataset, bucket: bool) -> None:
    schedule = Schedule(data, batch=20, seed=3, bucket=bucket)
    first, second = ([schedule.rows(e * 25 + i).tolist() for i in range(25)] for e in (0, 1))
    assert sorted(i for rows in first for i in rows) == list(range(500))
    assert sorted(i for rows in second for i in rows) == list(range(500))
    assert first != second


def test_buckets_waste_less(data: Dataset) -> None:
    def share(bucket: bool) -> float:
        schedule = Schedule(data, batch=20, seed=3, bucket=bucket)
        counts = [b.counts for i in range(25) for b in schedule.step(i)]
        return sum(c.nonpad for c in counts) / sum(c.positions for c in counts)

    assert share(True) > 0.95 > share(False)


def test_a_step_is_the_same_whatever_was_asked_before(data: Dataset) -> None:
    asked = Schedule(data, batch=20, seed=3)
    for i in range(40):
        asked.rows(i)
    assert asked.rows(7).tolist() == Schedule(data, batch=20, seed=3).rows(7).tolist()
    assert asked.rows(7).tolist() != Schedule(data, batch=20, seed=4).rows(7).tolist()


def test_processes_share_a_step_and_micro_batches_cut_it(data: Dataset) -> None:
    whole = Schedule(data, batch=20, seed=3).rows(5).tolist()
    halves = [Schedule(data, batch=20, seed=3, rank=r, world=2, micro_batch=4).step(5) for r in (0, 1)]
    assert [len(b.rows_B) for b in halves[0]] == [4, 4, 2]
    assert sorted(i for half in halves for b in half for i in b.rows_B) == sorted(whole)


def test_batches_that_cannot_be_are_refused(data: Dataset) -> None:
    with pytest.raises(DistillError, match="cannot share"):
        Schedule(data, batch=21, seed=0, world=2)
    with pytest.raises(DistillError, match="fewer than one batch"):
        Schedule(data, batch=501, seed=0)
