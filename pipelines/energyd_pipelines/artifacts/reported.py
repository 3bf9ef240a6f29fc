"""How does a store learn what an artifact took that was made elsewhere, or into another store?

A store knows what its own stages took. Of an artifact that was imported, or made while another store was in
use, only the manifest knows it: so who uses it says so, marked `reported`. Where the store holds the stage
that made it, that one counts and this is not read (view `artifacts`).
"""

from __future__ import annotations

from energyd_client import Run
from energyd_pipelines.artifacts.registry import Artifact
from energyd_pipelines.production import REPORTED


def report(run: Run, artifact: Artifact, *, made_in: str | None = None) -> None:
    """Tell the daemon of the manifest's joules. `made_in`: name of the stage that makes such an artifact.

    Joules and doubt (k = 2) that the manifest does not know are left out: then the store knows that there is
    an artifact, and that its energy is not known.
    """
    manifest = artifact.manifest
    production = manifest.production
    there = manifest.imported["origin"] if manifest.imported else production.origin
    run.artifact(
        f"{manifest.spec.kind} {artifact.id[:12]}", kind=manifest.spec.kind,
        uri=artifact.folder.resolve(), sha256=manifest.sha256, size_bytes=manifest.bytes,
        artifact_id=manifest.artifact_id, licence=manifest.licence, card=True,
        origin=REPORTED, made_in=made_in, measured_as=there, total_j=production.total_j,
        u_random_j=production.u_random_j, gpu_j=production.energy_j.get("gpu"),
        cpu_j=production.energy_j.get("cpu"),
    )  # fmt: skip
