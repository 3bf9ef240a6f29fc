"""What is in an artifact, what did it cost, of what was it made? The file that is written last.

A folder without a whole manifest is no artifact, so one that was killed while it was written is never taken
for one. The manifest lists every file with its SHA-256, and carries the energy of production with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from energyd_pipelines.artifacts.spec import SCHEMA_VERSION, ArtifactSpec
from energyd_pipelines.artifacts.uses import USES, sync_folder
from energyd_pipelines.errors import DistillError
from energyd_pipelines.production import Production

MANIFEST: Final = "manifest.json"
CARD: Final = "README.md"
OURS: Final = (MANIFEST, CARD, USES)
"""Files beside the content: not listed, since they are made of the manifest or grow."""

LEDGER: Final = ("positions", "nonpad", "label", "generated")
"""The four counts of tokens; one that was not counted is null."""


@dataclass(frozen=True)
class File:
    """One file of the content, its path relative to the artifact's folder."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is known of an artifact. `artifact_id` names this very production of it in stores."""

    spec: ArtifactSpec
    artifact_id: str  # `<spec id>.<8 digits>`: made again, or elsewhere, it is another one
    files: tuple[File, ...]
    production: Production
    ledger: Mapping[str, int | None] = field(default_factory=dict)
    signal: Mapping[str, Any] = field(default_factory=dict)  # how good: kept mass, the teacher's score …
    parents: tuple[Mapping[str, Any], ...] = ()  # {id, artifact_id, energy_j: by domain or null}
    licence: str | None = None
    created: str = ""  # ISO 8601, UTC
    regenerated: Mapping[str, Any] | None = None  # {reason, predecessor, energy_j}: made though it was there
    imported: Mapping[str, Any] | None = None  # {at, origin}: made elsewhere; origin: what it was there

    @property
    def id(self) -> str:
        """The specification's: the same for the same content wherever it was made."""
        return self.spec.id

    @property
    def bytes(self) -> int:
        """Of the content."""
        return sum(f.bytes for f in self.files)

    @property
    def sha256(self) -> str:
        """Of the list of files, as `sha256sum` would print it: one hash for all of the content."""
        text = "".join(f"{f.sha256}  {f.name}\n" for f in sorted(self.files, key=lambda f: f.name))
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "artifact_id": self.artifact_id,
            "kind": self.spec.kind,
            "spec": dict(self.spec.fields),
            "files": [{"name": f.name, "bytes": f.bytes, "sha256": f.sha256} for f in self.files],
            "ledger": {unit: self.ledger.get(unit) for unit in LEDGER},
            "signal": dict(self.signal),
            "production": self.production.as_json(),
            "parents": [dict(p) for p in self.parents],
            "licence": self.licence,
            "created": self.created,
            "regenerated": None if self.regenerated is None else dict(self.regenerated),
            "imported": None if self.imported is None else dict(self.imported),
        }

    @property
    def text(self) -> str:
        """The file's content."""
        return json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str | bytes, where: str) -> Manifest:
    """A manifest, every part looked at. Raises DistillError."""
    try:
        plain = json.loads(text)
        if plain["schema_version"] != SCHEMA_VERSION:
            raise DistillError(
                f"its manifest has version {plain['schema_version']!r:.20}, not {SCHEMA_VERSION}",
                where=where, cure="use the release that made it",
            )  # fmt: skip
        _must_be_of_their_types(plain)
        spec = ArtifactSpec(plain["kind"], plain["spec"])
        files = tuple(File(_inside(f["name"]), _size(f["bytes"]), str(f["sha256"])) for f in plain["files"])
        found = Manifest(
            spec=spec, artifact_id=str(plain["artifact_id"]), files=files,
            production=Production.from_json(plain["production"]), ledger=plain["ledger"],
            signal=plain["signal"], parents=tuple(plain["parents"]), licence=plain["licence"],
            created=plain["created"], regenerated=plain.get("regenerated"), imported=plain.get("imported"),
        )  # fmt: skip
        said = plain["id"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DistillError(
            f"its manifest makes no sense: {type(error).__name__} {error}"[:120],
            where=where, cure="make it again with --regenerate REASON, or import it again",
        ) from error  # fmt: skip
    if said != spec.id or not found.artifact_id.startswith(f"{spec.id}."):
        raise DistillError(
            f"its id {said!r:.40} is not that of its own specification, {spec.id}",
            where=where, cure="it was altered: get it again from where it came",
        )  # fmt: skip
    if len({f.name for f in files}) != len(files) or set(OURS) & {f.name for f in files}:
        raise DistillError("its manifest lists a file twice, or itself", where=where, cure="get it again")
    return found


def _must_be_of_their_types(plain: Mapping[str, Any]) -> None:
    """Raises TypeError: what was altered is told here, and not by whoever reads that part first."""
    nothing = type(None)
    kinds: dict[str, type | tuple[type, ...]] = {
        "ledger": dict, "signal": dict, "parents": list, "files": list, "created": str,
        "licence": (str, nothing), "regenerated": (dict, nothing), "imported": (dict, nothing),
    }  # fmt: skip
    for key, kind in kinds.items():
        if not isinstance(plain.get(key), kind):
            raise TypeError(f"{key} is {plain.get(key)!r:.40}")
    for unit, count in plain["ledger"].items():
        if count is not None:
            _size(count, f"{unit} tokens")
    for parent in plain["parents"]:
        if not isinstance(parent, dict):
            raise TypeError(f"a parent is {parent!r:.40}")


def load(folder: Path) -> Manifest | None:
    """The manifest of the artifact in `folder`; None if there is none. Damaged: raises DistillError."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DistillError(
            f"cannot read it: {error.strerror}", where=str(folder / MANIFEST),
            cure="make it again with --regenerate REASON, or import it again",
        ) from error  # fmt: skip
    return parse(text, str(folder / MANIFEST))


def describe(folder: Path) -> tuple[File, ...]:
    """Every file of the content below `folder`, hashed and on the disk for good. Links are refused."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DistillError(f"{name} is no plain file", where=str(folder), cure="copy what it points to")
        if path.is_dir():
            sync_folder(path)
        elif name not in OURS:
            found.append(File(name, path.stat().st_size, hash_file(path, durable=True)))
    sync_folder(folder)
    return tuple(found)


def problems(folder: Path, manifest: Manifest, *, hashes: bool = True) -> list[str]:
    """What is wrong with the content: a line for each file that is missing, cut, altered or too many."""
    found = []
    for f in manifest.files:
        path = folder / f.name
        if not path.is_file():
            found.append(f"{f.name} is missing")
        elif path.stat().st_size != f.bytes:
            found.append(f"{f.name} has {path.stat().st_size} bytes, its manifest says {f.bytes}")
        elif hashes and hash_file(path) != f.sha256:
            found.append(f"{f.name} was altered: its SHA-256 is not the manifest's")
    listed = {f.name for f in manifest.files} | set(OURS)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    return found + [f"{name} is not in its manifest" for name in sorted(there - listed)]


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all, durably."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def hash_file(path: Path, *, durable: bool = False) -> str:
    """SHA-256 of a file, hexadecimal; `durable`: and what was written of it is on the disk."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        if durable:
            os.fsync(file.fileno())
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _inside(name: Any) -> str:
    """A path that stays in the artifact's folder. Raises ValueError."""
    path = PurePosixPath(str(name))
    if (
        path.is_absolute()
        or not path.parts
        or {"..", "."} & set(path.parts)
        or "\\" in str(name)
        or "\0" in str(name)
    ):
        raise ValueError(f"{name!r:.60} leaves the artifact's folder")
    return path.as_posix()


def _size(value: Any, what: str = "bytes") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.20} {what}")
    return value
