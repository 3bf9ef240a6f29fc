"""What did this student cost, and its teacher's artifacts? A hub's card and a manifest beside its weights."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from energyd_pipelines.artifacts import cards, uses
from energyd_pipelines.artifacts import manifest as m
from energyd_pipelines.artifacts.manifest import Manifest
from energyd_pipelines.artifacts.spec import ArtifactSpec
from energyd_pipelines.evaluate import Quality
from energyd_pipelines.production import energy_of, with_attempts

if TYPE_CHECKING:
    from energyd_pipelines.cell import Cell


def write_card(cell: Cell, quality: Quality) -> None:
    """Write `README.md` and `manifest.json` into the student's folder.

    Energy is that of `student.train`, all attempts; one of which nothing is known makes the sum unknown.
    """
    if not cell.trainings:  # trained by a release that did not keep which stages those were
        return
    *killed, last = [energy_of(stage, run_id=run, site=cell.site) for run, stage in cell.trainings]
    cost = with_attempts(last, [k.attempt("killed") for k in killed])
    folder = cell.folder / "student"
    for old in (m.CARD, m.MANIFEST):
        (folder / old).unlink(missing_ok=True)
    ref = cell.student.ref
    spec = ArtifactSpec(
        kind="student",
        fields={
            "student": cell.student.name, "pipeline": cell.pipeline, "seed": cell.seed,
            "config": cell.config.hash,
            "base_model": None if ref == "decoder" or cell.student.weights == "random" else ref,
        },
    )  # fmt: skip
    made = Manifest(
        spec=spec, artifact_id=f"{spec.id}.{secrets.token_hex(4)}", files=m.describe(folder), production=cost,
        signal={"exact_match": quality.exact_match, "nll": quality.nll, "n": quality.n},
        parents=tuple(a.as_parent() for a in cell.parents), created=uses.now(),
    )  # fmt: skip
    m.write(folder / m.CARD, cards.card(made))
    m.write(folder / m.MANIFEST, made.text)
