"""How does an artifact go to another machine and arrive as it was made?

One tar: manifest first, card, then the files of the manifest in its order. Nothing that arrives is believed:
names may not leave the folder, only plain files come, sizes and SHA-256 must be the manifest's, and the
joules become `reported`, since nobody here measured them.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Final

from energyd_pipelines.artifacts import cards, uses
from energyd_pipelines.artifacts import manifest as m
from energyd_pipelines.artifacts.manifest import File, Manifest
from energyd_pipelines.artifacts.registry import NO_ROOM, Artifact, Registry, must_be_whole
from energyd_pipelines.artifacts.reported import report
from energyd_pipelines.errors import DistillError
from energyd_pipelines.production import REPORTED

LARGEST_MANIFEST: Final = 16 << 20
_CURE: Final = "get it again from where it came"


def export(artifact: Artifact, path: Path) -> Path:
    """Write the artifact as one tar, whole or not at all. The same artifact gives the same bytes."""
    must_be_whole(artifact)
    manifest, aside = artifact.manifest, path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for name, text in ((m.MANIFEST, manifest.text), (m.CARD, cards.card(manifest))):
                    data = text.encode()
                    tar.addfile(_entry(manifest, name, len(data)), io.BytesIO(data))
                for f in manifest.files:
                    with (artifact.folder / f.name).open("rb") as content:
                        tar.addfile(_entry(manifest, f.name, f.bytes), content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        uses.sync_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        said = NO_ROOM.get(error.errno or 0) or error.strerror or str(error)
        raise DistillError(
            f"the archive was not written: {said}", where=str(path), cure="name another place"
        ) from error
    return path


def take_in(registry: Registry, path: Path) -> tuple[Artifact, bool]:
    """The artifact of a tar, in the registry; and whether it is new there. Raises DistillError."""
    try:
        with tarfile.open(path, mode="r|") as tar:  # a stream: nothing is looked up, all is taken in order
            members = iter(tar)
            manifest = _manifest(tar, members, str(path))
            here = m.load(registry.root / manifest.spec.kind / manifest.id)
            if here is not None:
                return registry.get(manifest.id), False
            arrived = replace(
                manifest,
                production=replace(manifest.production, origin=REPORTED),
                imported={"at": uses.now(), "origin": manifest.production.origin},
            )
            with registry.draft(manifest.spec) as draft:
                again = m.load(registry.root / manifest.spec.kind / manifest.id)
                if again is not None:
                    return registry.get(manifest.id), False
                _unpack(tar, members, manifest, draft.folder, str(path))
                return draft.commit(imported=arrived), True
    except (tarfile.TarError, EOFError) as error:
        raise DistillError(f"it is no whole tar: {error}", where=str(path), cure=_CURE) from error
    except OSError as error:
        raise DistillError(f"cannot read it: {error.strerror or error}", where=str(path)) from error


def announce(artifact: Artifact) -> bool:
    """Tell the daemon, if one runs here, what an imported artifact is reported to have cost. True: it heard.

    So the store can charge runs that use it, though it holds no stage that made it.
    """
    import energyd_client as energy
    from energyd_client.endpoints import default_endpoint, is_disabled
    from energyd_client.reach import obstacle

    if is_disabled() or obstacle(default_endpoint()) is not None:
        return False
    with energy.run("import artifact") as run:
        report(run, artifact)
    return energy.flush(2.0)


def _manifest(tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], where: str) -> Manifest:
    """The first member, by which all others are judged."""
    first = next(members, None)
    content = None if first is None or not first.isreg() else tar.extractfile(first)
    if first is None or content is None or Path(first.name).name != m.MANIFEST:
        raise DistillError(
            "it does not begin with a manifest", where=where, cure="export it with this release"
        )
    if first.size > LARGEST_MANIFEST:
        raise DistillError(f"its manifest has {first.size} bytes", where=where, cure=_CURE)
    manifest = m.parse(content.read(), where)
    _must(
        first.name == f"{manifest.id}/{m.MANIFEST}", f"{first.name!r:.60} is not its manifest's place", where
    )
    return manifest


def _unpack(
    tar: tarfile.TarFile, members: Iterator[tarfile.TarInfo], manifest: Manifest, folder: Path, where: str
) -> None:
    wanted = {f"{manifest.id}/{f.name}": f for f in manifest.files}
    for member in members:
        if member.name == f"{manifest.id}/{m.CARD}":
            continue  # it is written anew, of the manifest
        f = wanted.pop(member.name, None)
        if f is None:
            raise DistillError(
                f"{member.name!r:.80} is not in its manifest, or twice", where=where, cure=_CURE
            )
        _must(member.isreg(), f"{f.name} is no plain file", where)
        _must(member.size == f.bytes, f"{f.name} has {member.size} bytes, not {f.bytes}", where)
        content = tar.extractfile(member)
        assert content is not None  # of a regular member
        _write(content, f, folder, where)
    _must(not wanted, f"{next(iter(wanted), '')} is missing", where)


def _write(content: IO[bytes], f: File, folder: Path, where: str) -> None:
    target, sha = folder / f.name, hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while block := content.read(1 << 20):
            sha.update(block)
            file.write(block)
    _must(sha.hexdigest() == f.sha256, f"{f.name} was altered: its SHA-256 is not the manifest's", where)


def _must(true: bool, what: str, where: str) -> None:
    if not true:
        raise DistillError(what, where=where, cure=_CURE)


def _entry(manifest: Manifest, name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(f"{manifest.id}/{name}")
    entry.size, entry.mode = size, 0o644
    return entry
