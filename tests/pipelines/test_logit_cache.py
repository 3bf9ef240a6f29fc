"""Is what comes out of the cache what the teacher said, and is a damaged one ever believed?"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import Dataset, Example
from energyd_pipelines.logit_cache import CacheWriter, LogitCache
from energyd_pipelines.losses import forward_kl
from energyd_pipelines.packed_ids import pack, planes_of, unpack
from energyd_pipelines.shapes import random_model, shape_of
from energyd_pipelines.teacher_logits import write_logits
from energyd_pipelines.training import label_logits

V, K = 50, 8
LENGTHS = (3, 1, 5)


def said(seed: int = 0) -> list[torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(n, V, generator=dice) for n in LENGTHS]


def write(folder: Path, k: int = K, **settings: Any) -> dict[str, Any]:
    writer = CacheWriter(folder, k=k, vocab_size=V, **settings)
    for logits in said():
        writer.append_example(logits)
    return writer.close()


def back(ids: np.ndarray, planes: int) -> np.ndarray:
    low, high = pack(ids, planes)
    return unpack(torch.from_numpy(low.view(np.int16)), torch.from_numpy(high)).numpy()


@pytest.mark.parametrize("k", [1, 4, 5, 9])
def test_packed_ids_come_back_at_the_borders_of_16_and_17_bits(k: int) -> None:
    ids = np.resize(np.array([0, 65535, 65536, 100351, 1, 32768, 98304], np.uint32), (7, k))
    assert (back(ids, planes_of(100_352)) == ids).all()
    assert planes_of(100_352) == 1
    assert pack(ids, 1)[1].nbytes == 7 * ((k + 7) // 8)


def test_packed_ids_take_as_many_planes_as_the_vocabulary_needs_and_no_more() -> None:
    assert [planes_of(v) for v in (32, 65_536, 65_537, 131_072, 131_073, 256_000)] == [0, 0, 1, 1, 2, 2]
    ids = np.array([[0, 65_535, 131_072, 255_999]], np.uint32)
    assert (back(ids, 2) == ids).all()
    with pytest.raises(DistillError, match="255999 does not fit into 17 bits"):
        pack(ids, 1)


def test_rows_are_the_top_logits_of_the_examples_asked_for_in_that_order(tmp_path: Path) -> None:
    write(tmp_path / "c")
    cache = LogitCache.open(tmp_path / "c")
    found = cache.rows([2, 0])
    logits = torch.cat([said()[2], said()[0]])
    top, ids = logits.topk(K, dim=1)
    assert (found.ids_NK == ids).all()
    torch.testing.assert_close(found.rel_NK, top - top[:, :1], rtol=1e-3, atol=1e-6)
    assert found.ids_NK.dtype == torch.int64
    assert (cache.k, cache.vocab_size, cache.n_examples, cache.n_positions(2)) == (K, V, 3, 5)


@pytest.mark.parametrize("tau", [1.0, 2.0, 4.0])
def test_every_stored_temperature_gives_the_direct_softmax(tmp_path: Path, tau: float) -> None:
    write(tmp_path / "c")
    found = LogitCache.open(tmp_path / "c").rows([0, 1, 2], tau=tau)
    logits = torch.cat(said())
    p = (found.rel_NK / tau - found.lse_N[:, None]).exp()
    torch.testing.assert_close(p, (logits / tau).softmax(1).gather(1, found.ids_NK), rtol=2e-3, atol=1e-6)
    assert (p.sum(1) < 1).all()


def test_a_view_of_four_of_eight_is_the_cache_made_with_four(tmp_path: Path) -> None:
    write(tmp_path / "8")
    write(tmp_path / "4", k=4)
    view, made = LogitCache.open(tmp_path / "8").view(4), LogitCache.open(tmp_path / "4")
    for tau in (1.0, 4.0):
        a, b = view.rows([1, 2], tau=tau), made.rows([1, 2], tau=tau)
        assert (a.ids_NK == b.ids_NK).all()
        assert (a.rel_NK == b.rel_NK).all()
        assert (a.lse_N == b.lse_N).all()
    student = torch.randn(6, V, generator=torch.Generator().manual_seed(9))
    assert forward_kl(student, view.rows([1, 2]), "bucket") == forward_kl(
        student, made.rows([1, 2]), "bucket"
    )
    with pytest.raises(DistillError, match="k=9 of a cache that keeps 8"):
        LogitCache.open(tmp_path / "8").view(9)


def test_the_head_tells_positions_and_the_mass_that_was_kept(tmp_path: Path) -> None:
    head = write(tmp_path / "c")
    mass = torch.cat(said()).softmax(1).topk(K, 1).values.sum(1)
    assert head["label"] == sum(LENGTHS)
    assert head["kept_mass_mean"] == pytest.approx(mass.mean().item(), abs=1e-3)
    assert head["kept_mass_p05"] == pytest.approx(np.sort(mass.numpy())[0], abs=1e-3)  # of nine, the least
    assert json.loads((tmp_path / "c" / "cache.json").read_text())["label"] == head["label"]
    assert head["bytes"] == (tmp_path / "c" / "rows.bin").stat().st_size


def test_a_position_of_olmo_takes_276_bytes(tmp_path: Path) -> None:
    with CacheWriter(tmp_path / "c", k=64, vocab_size=100_352) as writer:
        writer.append_example(torch.randn(2, 100_352))
    assert (tmp_path / "c" / "rows.bin").stat().st_size == 2 * 276
    assert LogitCache.open(tmp_path / "c").rows([0]).ids_NK.max() < 100_352


def test_a_changed_byte_is_told_with_the_example_it_is_in(tmp_path: Path) -> None:
    write(tmp_path / "c")
    file = tmp_path / "c" / "rows.bin"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    cache = LogitCache.open(tmp_path / "c")
    cache.rows([0, 1])
    with pytest.raises(DistillError, match="example 2 of the logit cache is not what was written"):
        cache.rows([2])
    with pytest.raises(DistillError, match="example 2 of the logit cache"):
        cache.view(2).rows([2])


@pytest.mark.parametrize("name", ["rows.bin", "examples.npz", "cache.json"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_or_missing_file_is_no_cache(tmp_path: Path, name: str, share: float) -> None:
    write(tmp_path / "c")
    file = tmp_path / "c" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DistillError) as cut:
        LogitCache.open(tmp_path / "c")
    file.unlink()
    with pytest.raises(DistillError, match=f"no complete logit cache: {name} is not there") as gone:
        LogitCache.open(tmp_path / "c")
    for error in (cut, gone):
        assert str(tmp_path / "c") in str(error.value)
        assert len(str(error.value).splitlines()) <= 3


def test_a_cache_whose_writer_was_killed_is_none(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", k=K, vocab_size=V)
    writer.append_example(said()[0])
    with pytest.raises(DistillError, match="no complete logit cache"):
        LogitCache.open(tmp_path / "c")
    with pytest.raises(ZeroDivisionError), writer:
        _ = 1 / 0
    with pytest.raises(DistillError, match="no complete logit cache"):
        LogitCache.open(tmp_path / "c")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    writer = CacheWriter(tmp_path / "c", k=K, vocab_size=V)
    writer._file.close()
    writer._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115, PTH123
    with pytest.raises(DistillError) as error:
        writer.append_example(said()[0])
    writer._file.close()
    assert "No space left on device" in str(error.value)
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC


def test_bad_settings_get_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="k=51 of a vocabulary of 50"):
        CacheWriter(tmp_path / "a", k=51, vocab_size=V)
    with pytest.raises(DistillError, match="temperatures"):
        CacheWriter(tmp_path / "a", k=5, vocab_size=V, temperatures=(1.0, 0.0))
    assert not (tmp_path / "a").exists()
    write(tmp_path / "c")
    cache = LogitCache.open(tmp_path / "c")
    with pytest.raises(DistillError, match=r"tau=3.0 is not in this cache"):
        cache.rows([0], tau=3.0)
    with pytest.raises(DistillError, match="example 3 of a cache of 3"):
        cache.rows([3])
    with CacheWriter(tmp_path / "b", k=5, vocab_size=V) as writer:
        with pytest.raises(DistillError, match="logits over 49 tokens for a vocabulary of 50"):
            writer.append_example(torch.zeros(1, 49))
        with pytest.raises(DistillError, match="not finite"):
            writer.append_example(torch.full((1, V), torch.nan))


def test_the_teachers_cache_holds_each_examples_label_positions_in_order(tmp_path: Path) -> None:
    shape = shape_of("tiny")
    teacher = random_model(shape, device="cpu", dtype=torch.float32)
    dice = np.random.default_rng(0)
    examples = [
        Example(dice.integers(3, shape.vocab, n).astype(np.uint32), p)
        for n, p in ((9, 2), (4, 3), (12, 5), (6, 1))
    ]
    data = Dataset(examples, "h", "t", shape.vocab, 0, 2)
    with CacheWriter(tmp_path / "c", k=K, vocab_size=shape.vocab) as writer:
        counts = list(write_logits(teacher, data, writer, batch=3, device=torch.device("cpu")))
    assert [(c.positions, c.nonpad, c.label) for c in counts] == [(36, 27, 19), (4, 4, 1)]
    cache = LogitCache.open(tmp_path / "c")
    assert [cache.n_positions(i) for i in range(4)] == [7, 1, 7, 5]
    for i, example in enumerate(examples):
        tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
        labels = tokens.clone()
        labels[:, : example.prompt] = -100
        with torch.no_grad():
            logits, _ = label_logits(teacher, tokens, labels)
        top, ids = logits.topk(K, 1)
        found = cache.rows([i])
        assert (found.ids_NK == ids).all()
        torch.testing.assert_close(found.rel_NK, top - top[:, :1], rtol=1e-3, atol=1e-3)
    with pytest.raises(DistillError, match="the teacher knows 512 tokens, the data uses 600"):
        next(
            write_logits(
                teacher, Dataset(examples, "h", "t", 600, 0, 2), writer, batch=3, device=torch.device("cpu")
            )
        )
