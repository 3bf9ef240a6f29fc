"""Do sparse losses equal their dense definitions, and what do they do at the edges?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from energyd_pipelines.chunked_head import through_head
from energyd_pipelines.errors import DistillError
from energyd_pipelines.logit_cache import SparseTargets
from energyd_pipelines.losses import TAILS, ce, forward_kl, kd

N, V = 7, 23


def logits(seed: int, *, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(N, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def targets(teacher: torch.Tensor, k: int, tau: float = 1.0) -> SparseTargets:
    top, ids = teacher.topk(k, dim=1)
    lse = ((teacher - top[:, :1]) / tau).logsumexp(1)
    return SparseTargets(ids, top - top[:, :1], lse, tau)


def dense_kl(student: torch.Tensor, teacher: torch.Tensor, tau: float) -> torch.Tensor:
    p, log_q = (teacher / tau).softmax(1), (student / tau).log_softmax(1)
    return (p * (p.log() - log_q)).sum()


LABELS = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("tau", [0.7, 1.0, 2.5])
def test_with_the_whole_vocabulary_every_tail_is_the_dense_divergence(tail: str, tau: float) -> None:
    student, teacher = logits(1), logits(2)
    found = forward_kl(student, targets(teacher, V, tau), tail)  # type: ignore[arg-type]
    torch.testing.assert_close(found, dense_kl(student, teacher, tau))


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_the_bucket_is_the_divergence_of_k_plus_one_outcomes(tau: float) -> None:
    student, teacher, k = logits(1), logits(2), 5
    given = targets(teacher, k, tau)
    p, q = (
        (teacher / tau).softmax(1).gather(1, given.ids_NK),
        (student / tau).softmax(1).gather(1, given.ids_NK),
    )
    p, q = (torch.cat([x, 1 - x.sum(1, keepdim=True)], 1) for x in (p, q))
    found = forward_kl(student, given, "bucket")
    torch.testing.assert_close(found, (p * (p / q).log()).sum())
    assert 0 < found < dense_kl(student, teacher, tau)  # a coarser view tells two distributions less apart


def test_renorm_and_none_are_what_their_words_say() -> None:
    student, teacher, k = logits(1), logits(2), 5
    given = targets(teacher, k)
    p, log_q = teacher.softmax(1).gather(1, given.ids_NK), student.log_softmax(1).gather(1, given.ids_NK)
    torch.testing.assert_close(forward_kl(student, given, "none"), (p * (p.log() - log_q)).sum())
    p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(forward_kl(student, given, "renorm"), (p * (p.log() - log_q)).sum())


def test_the_loss_mixes_labels_and_teacher_with_tau_squared() -> None:
    student, teacher = logits(1), logits(2)
    found = kd(0.3, 2.0)(student, LABELS, targets(teacher, V, 2.0))
    hard = cross_entropy(student, LABELS, reduction="sum")
    torch.testing.assert_close(found, 0.3 * hard + 0.7 * 4 * dense_kl(student, teacher, 2.0))
    torch.testing.assert_close(kd(1.0)(student, LABELS, targets(teacher, 4)), hard)
    torch.testing.assert_close(ce(student, LABELS, None), hard)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("k", [4, V])
def test_gradients_are_those_of_finite_differences(tail: str, k: int) -> None:
    student, given = logits(1).requires_grad_(), targets(logits(2), k, 1.5)
    assert torch.autograd.gradcheck(
        lambda z: kd(0.4, 1.5, tail)(z, LABELS, given),  # type: ignore[arg-type]
        student,
    )


def test_a_student_that_agrees_has_nothing_to_learn() -> None:
    teacher = logits(2)
    student = teacher.clone().requires_grad_()
    loss = forward_kl(student, targets(teacher, 4), "bucket")
    (slope,) = torch.autograd.grad(loss, student)
    assert abs(loss.item()) < 1e-12
    assert slope.abs().max() < 1e-12


def test_probabilities_that_rounding_lifted_above_one_leave_no_negative_rest() -> None:
    given = targets(logits(2, scale=30), 4)  # the top four hold all
    lifted = replace(given, lse_N=given.lse_N - 1e-3)
    student = logits(1).requires_grad_()
    loss = forward_kl(student, lifted, "bucket")
    (slope,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(slope).all()
    assert loss >= forward_kl(student, lifted, "none") - 1e-12  # the rest adds nothing, takes nothing away


def test_a_student_that_is_sure_still_learns_about_the_rest() -> None:
    sure = torch.zeros(1, V)
    sure[0, 0] = 60.0  # 1 minus its top is 0 in fp32
    student = sure.requires_grad_()
    teacher = torch.zeros(1, V)
    teacher[0, 0] = 0.1
    loss = forward_kl(student, targets(teacher, 1), "bucket")
    (slope,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert slope[0, 0] > 0.5  # towards less certainty


def test_bf16_logits_are_summed_in_fp32() -> None:
    student = logits(1).to(torch.bfloat16)
    wide = ce(student.float(), LABELS, None)
    torch.testing.assert_close(ce(student, LABELS, None), wide)
    assert ce(student, LABELS, None).dtype == torch.float32


@pytest.mark.parametrize("chunk", [1, 3, N, 100])
def test_a_loss_through_the_head_chunk_by_chunk_is_the_loss_of_all_logits(chunk: int) -> None:
    dice = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, 6, dtype=torch.float64, generator=dice).requires_grad_()
    head = torch.randn(V, 6, dtype=torch.float64, generator=dice).requires_grad_()
    given, loss = targets(logits(2), 4), kd(0.3)
    whole = loss(hidden @ head.T, LABELS, given) / 11
    wanted = torch.autograd.grad(whole, (hidden, head))
    parts = through_head(loss, hidden, head, LABELS, given, chunk=chunk) / 11
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, (hidden, head)), wanted)
    with torch.no_grad():
        torch.testing.assert_close(through_head(loss, hidden, head, LABELS, given, chunk=chunk) / 11, whole)
    frozen = through_head(loss, hidden, head.detach(), LABELS, given, chunk=chunk) / 11
    torch.testing.assert_close(torch.autograd.grad(frozen, hidden)[0], wanted[0])


def test_settings_that_make_no_sense_get_one_clear_error() -> None:
    for alpha, tau, tail in ((1.5, 1.0, "bucket"), (0.5, 0.0, "bucket"), (0.5, 1.0, "bukket")):
        with pytest.raises(DistillError, match="kd: "):
            kd(alpha, tau, tail)  # type: ignore[arg-type]
    with pytest.raises(DistillError, match="no teacher logits"):
        kd(0.5)(logits(1), LABELS, None)
    with pytest.raises(DistillError, match=r"tau=2.0, the teacher's log-sum-exp at tau=1.0"):
        kd(0.5, 2.0)(logits(1), LABELS, targets(logits(2), 4))
