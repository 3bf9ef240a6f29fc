"""What is asked of the teacher, and only if nobody asked it before? Its logits, or its answers.

Everything that decides the content is in the specification, so that the registry finds what is there: a cache
with more tokens or more temperatures serves a smaller wish.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import energyd_client as energy
from energyd_pipelines import models
from energyd_pipelines.artifacts.manifest import Manifest, load
from energyd_pipelines.artifacts.obtain import obtain
from energyd_pipelines.artifacts.registry import Artifact
from energyd_pipelines.artifacts.spec import ArtifactSpec
from energyd_pipelines.builtin import manifest_of
from energyd_pipelines.cell import Cell
from energyd_pipelines.data import Flat, dataset_of
from energyd_pipelines.data_files import read_flat, write_flat
from energyd_pipelines.errors import DistillError
from energyd_pipelines.examples import Counts, Dataset, Example
from energyd_pipelines.generate import generate
from energyd_pipelines.identity import weights_hash_of
from energyd_pipelines.logit_cache import HEAD, CacheWriter, LogitCache
from energyd_pipelines.teacher_logits import write_logits

CODE: Final = 1
"""Version of what is written here: a change that changes content makes other artifacts."""


def cached_logits(cell: Cell, run: energy.Run, data: Dataset) -> LogitCache:
    """The teacher's top k at every label of `data`: found, or made in stage `teacher.logits`."""
    settings, device = cell.config.kd, cell.processes.device
    taus = sorted({*settings.temperatures, settings.tau})
    spec = ArtifactSpec(
        kind="logits",
        fields={
            **_common(cell, data),
            "k": settings.k,
            "temperatures": taus,
            "values": "float16",
            "lse": "float32",
        },
    )

    def make(draft: Any, stage: energy.Stage) -> None:
        teacher = _teacher(cell, data)
        writer = CacheWriter(
            draft.folder, k=settings.k, vocab_size=data.vocab_size, temperatures=tuple(map(float, taus))
        )
        total = Counts()
        with writer:
            for counts in write_logits(teacher, data, writer, batch=settings.batch, device=device):
                stage.count(**counts.units())
                total += counts
                cell.say.now(f"{cell.name}  teacher.logits  {total.label} labels")
        draft.ledger, draft.signal = total.units(), json.loads((draft.folder / HEAD).read_text())
        draft.parents = [_made_by(cell, spec)]

    artifact = _obtain(cell, run, spec, "teacher.logits", make)
    cache = LogitCache.open(artifact.folder)
    if cache.n_examples != len(data.examples):
        raise DistillError(
            f"the cache holds {cache.n_examples} examples, the data {len(data.examples)}",
            where=str(artifact.folder), cure="--regenerate 'cache of other data'",
        )  # fmt: skip
    return cache.view(settings.k) if cache.k > settings.k else cache


def written_answers(cell: Cell, run: energy.Run, data: Dataset) -> Dataset:
    """The teacher's answers to the prompts of `data`: found, or written in stage `teacher.generate`."""
    settings = cell.config.generate
    n = min(settings.prompts, len(data.examples)) or len(data.examples)
    decides = {"temperature": settings.temperature, "top_p": settings.top_p, "max_new": settings.max_new}
    if settings.temperature > 0:  # then tokens are drawn, and which ones depends on these too
        decides |= {"seed": settings.seed, "batch": settings.batch}
    spec = ArtifactSpec(kind="synthetic", fields={**_common(cell, data), **decides, "prompts": n})

    def make(draft: Any, stage: energy.Stage) -> None:
        teacher = _teacher(cell, data)
        prompts = [e.tokens[: e.prompt] for e in (data.examples[i] for i in range(n))]
        answers: list[Example | None] = [None] * n
        ended = generated = 0
        for answer in generate(
            teacher, prompts, max_new=settings.max_new, eos_id=data.eos_id, pad_id=data.pad_id,
            temperature=settings.temperature, top_p=settings.top_p, batch=settings.batch or None,
            static_cache=settings.static_cache, graph=settings.graph, seed=settings.seed,
        ):  # fmt: skip
            answers[answer.index] = Example(answer.tokens, len(prompts[answer.index]))
            generated += answer.n_generated
            ended += int(answer.tokens[-1] == data.eos_id)
            stage.count(generated=answer.n_generated)
            cell.say.now(f"{cell.name}  teacher.generate  {generated} tokens")
        write_flat(draft.folder / "answers.npz", Flat.of(a for a in answers if a is not None))
        draft.ledger = {"generated": generated}
        draft.signal = {"answers": n, "ended": ended}
        draft.parents = [_made_by(cell, spec)]

    artifact = _obtain(cell, run, spec, "teacher.generate", make)
    return dataset_of(read_flat(artifact.folder / "answers.npz"), cell.tokenizer)


def _common(cell: Cell, data: Dataset) -> dict[str, Any]:
    """What decides the content of everything that a teacher makes."""
    teacher = cell.config.teacher
    assert teacher is not None  # limits.py refuses such a study
    return {
        "teacher": teacher.name, "ref": teacher.ref, "revision": teacher.revision,
        "weights": weights_hash_of(teacher),
        "tokenizer": data.tokenizer_hash, "dataset": data.content_hash, "code": CODE,
        "dtype": "bfloat16" if cell.processes.device.type == "cuda" else "float32",
    }  # fmt: skip


def _teacher(cell: Cell, data: Dataset) -> Any:
    assert cell.config.teacher is not None
    return models.build(
        cell.config.teacher, vocab_size=data.vocab_size, pad_id=data.pad_id, eos_id=data.eos_id, seed=0,
        device=cell.processes.device, max_len=cell.config.data.max_len + 8,
    )  # fmt: skip


def _made_by(cell: Cell, spec: ArtifactSpec) -> dict[str, Any]:
    """The teacher as a parent of what it makes: what its own training took, where a manifest says so.

    Which weights, `spec` knows: hashing them here (64 GB of a 32B teacher) would be in the teacher's stage.
    """
    teacher = cell.config.teacher
    assert teacher is not None
    known: dict[str, Any] = {"energy_j": None, "total_j": None, "origin": None}
    found = None if teacher.ref.startswith("builtin:") else _manifest_beside(Path(teacher.ref))
    if found is not None:
        return Artifact(Path(teacher.ref), found, found.spec).as_parent()
    if teacher.ref.startswith("builtin:"):
        production = manifest_of(teacher.ref)["production"]
        known = {name: production[name] for name in known}
    return {"id": teacher.ref, "artifact_id": spec.fields["weights"], "kind": "teacher", **known}


def _manifest_beside(folder: Path) -> Manifest | None:
    """Of a model that we trained; others have no such file, or one of their own."""
    try:
        return load(folder)
    except DistillError:
        return None


def _made_again_already(cell: Cell, spec: ArtifactSpec) -> bool:
    """Has a cell of this study made it again? A reason is for one time, not for each size and seed."""
    try:
        found = cell.registry.find(spec)
    except DistillError:  # damaged: it is to be made again
        return False
    again = found is not None and found.manifest.regenerated is not None
    return again and found is not None and found.manifest.production.run_id in cell.study_run_ids


def _obtain(cell: Cell, run: energy.Run, spec: ArtifactSpec, stage: str, make: Any) -> Artifact:
    """By the first process; the others find what it made. What reuse spared is kept for the summary."""
    reason = cell.config.reuse.regenerate
    if cell.processes.first:
        if reason is not None and _made_again_already(cell, spec):
            reason = None
        before = cell.registry.find(spec) if reason is None else None
        artifact = obtain(
            run, cell.registry, spec, stage, make, regenerate=reason, site=cell.site,
            devices=cell.processes.devices,
        )  # fmt: skip
        if before is not None and before.manifest.production.run_id not in cell.run_ids:  # else its own work
            spent = before.manifest.production
            cell.saved.append(
                {"stage": stage, "artifact": before.id, "total_j": spent.total_j, "origin": spent.origin,
                 "n_uses": artifact.n}
            )  # fmt: skip
        cell.parents.append(artifact)
    cell.processes.wait()
    if not cell.processes.first:
        found = cell.registry.find(spec)
        assert found is not None
        artifact = found
    return artifact
