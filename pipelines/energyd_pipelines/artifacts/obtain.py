"""Must the teacher work, or is what it would make there already? Reuse first, and each use counted.

    cache = obtain(run, registry, spec, "teacher.logits", make, regenerate=None)

`make(draft, stage)` writes files into `draft.folder`, counts tokens on `stage`, and sets `draft.ledger`,
`draft.signal` and `draft.parents`. It runs only if nobody made this before, inside a stage of the run's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from energyd_client import Run, Stage
from energyd_pipelines.artifacts.registry import Artifact, Draft, Registry, must_be_whole
from energyd_pipelines.artifacts.reported import report
from energyd_pipelines.artifacts.spec import ArtifactSpec
from energyd_pipelines.errors import DistillError
from energyd_pipelines.production import WAIT_S, Production, Site, energy_of

log = logging.getLogger(__name__)
Make = Callable[[Draft, Stage], object]


def obtain(
    run: Run,
    registry: Registry,
    spec: ArtifactSpec,
    stage_name: str,
    make: Make,
    *,
    regenerate: str | None = None,
    site: Site | None = None,
    devices: list[int] | None = None,
    wait_s: float = WAIT_S,
) -> Artifact:
    """The artifact of `spec`: found, or made in a stage `stage_name`, its energy asked of the daemon.

    `devices`: the GPUs to charge, as `run.stage` takes them. `regenerate`: the reason for making it though it
    is there; an empty one is refused. Raises DistillError.
    """
    if regenerate is not None and not regenerate.strip():
        raise DistillError(
            "making it again needs a reason", cure="--regenerate 'what was wrong with it'", code=2
        )
    found = None if regenerate else registry.find(spec)
    if found is None:
        with registry.draft(spec) as draft:  # waits while another process makes it …
            found = None if regenerate else registry.find(spec)  # … and then it is there
            if found is None:
                stage = run.stage(stage_name, devices=devices)
                found = _make(run, draft, stage, make, regenerate, site, wait_s)
                _use(run, found)
                return found
    must_be_whole(found)
    report(run, found, made_in=stage_name)  # this store may not hold the stage that made it
    _use(run, found)
    return found


def _make(
    run: Run,
    draft: Draft,
    stage: Stage,
    make: Make,
    regenerate: str | None,
    site: Site | None,
    wait_s: float,
) -> Artifact:
    failed = [_recalled(draft, a, site) for a in draft.failed_attempts()]
    try:
        with stage:
            draft.begin_attempt(run.run_id, str(stage.stage_id))
            make(draft, stage)
    except BaseException as error:
        draft.discard()  # first: on a full disk the note needs the room
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
        _note_failure(draft, _cost(run, stage, site, wait_s).attempt(status))
        raise
    cost = _cost(run, stage, site, wait_s)
    try:
        made = draft.commit(production=cost, failed=failed, regenerate=regenerate)
    except (OSError, DistillError):
        draft.discard()
        _note_failure(draft, cost.attempt("error"))
        raise
    manifest, total_j = made.manifest, made.manifest.production.total_j
    run.artifact(
        f"{spec_name(made)}", kind=made.manifest.spec.kind, uri=made.folder.resolve(), sha256=manifest.sha256,
        size_bytes=manifest.bytes, artifact_id=manifest.artifact_id, stage=stage, spec_id=made.id,
        total_j=total_j, licence=manifest.licence, card=True,
        failed_stages=" ".join(str(a["stage_id"]) for a in failed) or None, regenerated=regenerate,
    )  # fmt: skip
    return made


def spec_name(artifact: Artifact) -> str:
    """What people call it: the specification's name or teacher, and the beginning of the id."""
    fields = artifact.manifest.spec.fields
    called = fields.get("name") or fields.get("teacher") or fields.get("student")
    return f"{called if isinstance(called, str) else artifact.manifest.spec.kind} {artifact.id[:12]}"


def _use(run: Run, artifact: Artifact) -> None:
    """Count the use, in the store and beside the artifact."""
    labels = run.labels
    seed = labels.get("seed")
    run.use_artifact(artifact.manifest.artifact_id)
    pipeline, student = _text(labels.get("pipeline")), _text(labels.get("student"))
    try:
        artifact.record_use(run.run_id, pipeline, student, seed if isinstance(seed, int) else None)
    except DistillError as error:  # a registry that others share may be readable only
        log.warning("this use is counted in the store alone: %s", str(error).splitlines()[0])


def _cost(run: Run, stage: Stage, site: Site | None, wait_s: float) -> Production:
    return energy_of(str(stage.stage_id), wait_s, run_id=run.run_id, site=site)


def _recalled(draft: Draft, attempt: dict[str, Any], site: Site | None) -> dict[str, Any]:
    """A failed attempt with its cost; one that was killed could not ask for it, so it is asked for now."""
    if "energy_j" not in attempt:
        asked = energy_of(str(attempt["stage_id"]), 3.0, run_id=attempt.get("run_id"), site=site)
        attempt = asked.attempt(str(attempt["status"]))
        if asked.total_j is not None:
            _note_failure(draft, attempt)  # the daemon forgets within the hour
    return {k: v for k, v in attempt.items() if k not in ("event", "at", "pid")}


def _note_failure(draft: Draft, attempt: dict[str, Any]) -> None:
    try:
        draft.end_attempt(attempt)
    except DistillError as error:  # the first error is the one to tell; its begin is noted
        log.warning("%s", error)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
