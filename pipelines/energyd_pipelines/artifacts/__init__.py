"""What did teachers make that others may reuse, and what did it cost? The registry's front door."""

from energyd_pipelines.artifacts.manifest import Manifest
from energyd_pipelines.artifacts.obtain import obtain
from energyd_pipelines.artifacts.registry import Artifact, Draft, Registry
from energyd_pipelines.artifacts.spec import ArtifactSpec

__all__ = ["Artifact", "ArtifactSpec", "Draft", "Manifest", "Registry", "obtain"]
