"""Is it there already, and if not, how does it get there whole or not at all?

ROOT/KIND/ID/                     an artifact: its files, manifest.json (written last), README.md, uses.jsonl
ROOT/KIND/.drafts/ID.XXXXXXXX/    being written; left by a kill, it is swept by the next who makes ID
ROOT/KIND/.attempts/ID.jsonl      every attempt at making ID, the failed ones too: outlives drafts
ROOT/KIND/.locks/ID               held (flock) by the process that makes ID; freed by its death
ROOT/KIND/.superseded/ARTIFACT/   manifest, card and uses of what was made again: its energy was spent
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from energyd_pipelines.artifacts import cards, uses
from energyd_pipelines.artifacts import manifest as m
from energyd_pipelines.artifacts.manifest import Manifest
from energyd_pipelines.artifacts.spec import KINDS, ArtifactSpec
from energyd_pipelines.errors import DistillError
from energyd_pipelines.production import Production, unknown, with_attempts

log = logging.getLogger(__name__)
NO_ROOM: Final = {
    errno.ENOSPC: "no space is left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than allowed",
}


@dataclass(frozen=True)
class Artifact:
    """One artifact in a registry; `wish`: what was asked for, which may be a smaller view of it."""

    folder: Path
    manifest: Manifest
    wish: ArtifactSpec

    @property
    def id(self) -> str:
        """Of its specification."""
        return self.manifest.id

    @property
    def is_view(self) -> bool:
        """Whether it holds more than was asked for: take `wish.fields["k"]` of it."""
        return self.wish.id != self.id

    def record_use(self, run_id: str, pipeline: str | None, student: str | None, seed: int | None) -> None:
        """Note beside it, for good, that a run uses it. Raises DistillError."""
        uses.append(
            self.folder / uses.USES,
            {
                "at": uses.now(), "artifact_id": self.manifest.artifact_id, "run_id": run_id,
                "pipeline": pipeline, "student": student, "seed": seed,
            },
        )  # fmt: skip

    def uses(self) -> list[dict[str, Any]]:
        """Every use noted, oldest first."""
        return uses.read(self.folder / uses.USES)

    @property
    def n(self) -> int:
        """By how many different runs it was used."""
        return len({u.get("run_id") for u in self.uses()})

    def as_parent(self) -> dict[str, Any]:
        """As the manifest of what is made of it names it."""
        production = self.manifest.production
        return {
            "id": self.id, "artifact_id": self.manifest.artifact_id, "kind": self.manifest.spec.kind,
            "energy_j": production.energy_j, "total_j": production.total_j, "origin": production.origin,
        }  # fmt: skip


class Registry:
    """A folder of artifacts, shared by any number of processes."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def find(self, spec: ArtifactSpec) -> Artifact | None:
        """The artifact of `spec`, else a larger one that serves it, else None. Damaged: DistillError."""
        folder = self._folder(spec)
        found = m.load(folder)
        if found is None and folder.exists():
            found = m.load(folder)  # another process may just have put it there
            if found is None:  # one rename puts it there whole: this was taken away
                raise DistillError(  # said before the teacher works, whose work could not be put there
                    f"artifact {spec.id[:12]} is damaged: {m.MANIFEST} is missing", where=str(folder),
                    cure="make it again with --regenerate REASON, or import it again",
                )  # fmt: skip
        if found is not None:
            return self._sound(Artifact(folder, found, spec))
        if spec.kind != "logits":
            return None
        larger = [a for a in self.all(spec.kind) if a.manifest.spec.serves(spec)]
        if not larger:
            return None
        best = min(larger, key=lambda a: (a.manifest.bytes, a.id))
        return self._sound(replace(best, wish=spec))

    def all(self, kind: str | None = None) -> Iterator[Artifact]:
        """Every artifact; damaged ones are told of in the log and passed over."""
        for one in KINDS if kind is None else (kind,):
            for folder in sorted((self.root / one).glob("[0-9a-f]*")):
                try:
                    found = m.load(folder)
                except DistillError as error:
                    log.warning("%s: %s", folder, str(error).splitlines()[0])
                    continue
                if found is not None:
                    yield Artifact(folder, found, found.spec)

    def get(self, name: str) -> Artifact:
        """The artifact whose id begins with `name`. Raises DistillError if none or several do."""
        where = str(self.root)
        folders = [f for kind in KINDS for f in (self.root / kind).glob(f"{name}*") if name.isalnum()]
        if len(folders) != 1:
            what = f"{len(folders)} artifacts begin with {name}" if folders else f"no artifact {name!r:.40}"
            raise DistillError(what, where=where, cure="see `distill artifacts list`")
        found = m.load(folders[0])
        if found is None:
            raise DistillError("it has no manifest: it was never whole", where=str(folders[0]))
        return Artifact(folders[0], found, found.spec)

    def verify(self, name: str) -> Artifact:
        """Read all of an artifact; raises DistillError that names what is not as it was made."""
        found = self.get(name)
        must_be_whole(found)
        return found

    def draft(self, spec: ArtifactSpec) -> Draft:
        """A place to make an artifact in: `with registry.draft(spec) as draft: …; draft.commit(…)`."""
        return Draft(self, spec)

    def sweep(self) -> int:
        """Remove what killed processes left of drafts; how many. What somebody makes now is left alone."""
        removed = 0
        for drafts in self.root.glob("*/.drafts/*"):
            lock = _lock(drafts.parents[1] / ".locks" / drafts.name.partition(".")[0], wait=False)
            if lock is not None:
                with lock:
                    shutil.rmtree(drafts, ignore_errors=True)
                removed += 1
        return removed

    def _folder(self, spec: ArtifactSpec) -> Path:
        return self.root / spec.kind / spec.id

    def _sound(self, found: Artifact) -> Artifact:
        """What a look at names and sizes can tell; `must_be_whole` reads it all."""
        must_be_whole(found, hashes=False)
        return found


@dataclass
class Draft:
    """An artifact being made, by this process alone. Only `commit` makes it one."""

    registry: Registry
    spec: ArtifactSpec
    ledger: Mapping[str, int | None] = field(default_factory=dict)  # `make` may set these three …
    signal: Mapping[str, Any] = field(default_factory=dict)
    parents: Sequence[Artifact | Mapping[str, Any]] = ()
    licence: str | None = None
    folder: Path = field(init=False)  # … and writes here
    _lock: IO[str] | None = field(init=False, default=None)
    _done: bool = field(init=False, default=False)

    @property
    def _kind(self) -> Path:
        return self.registry.root / self.spec.kind

    @property
    def attempts_file(self) -> Path:
        """Where attempts at this artifact are noted."""
        return self._kind / ".attempts" / f"{self.spec.id}.jsonl"

    def __enter__(self) -> Draft:
        try:
            for name in (".drafts", ".locks", ".attempts", ".superseded"):
                (self._kind / name).mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self._kind / ".locks" / self.spec.id)
            for stale in (self._kind / ".drafts").glob(f"{self.spec.id}.*"):
                shutil.rmtree(stale, ignore_errors=True)
            self._restore()
            self.folder = self._kind / ".drafts" / f"{self.spec.id}.{secrets.token_hex(4)}"
            self.folder.mkdir()
        except OSError as error:
            self._unlock()
            raise _cannot_write(error, self._kind) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._done:
            self.discard()
        self._unlock()
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise _cannot_write(error, self._kind) from error

    def discard(self) -> None:
        """Give back the room that an unfinished draft takes."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin_attempt(self, run_id: str, stage_id: str) -> None:
        """Note that a stage makes it now, so that its energy is not forgotten however it ends."""
        record = {
            "event": "begin",
            "at": uses.now(),
            "run_id": run_id,
            "stage_id": stage_id,
            "pid": os.getpid(),
        }
        uses.append(self.attempts_file, record)

    def end_attempt(self, attempt: dict[str, Any]) -> None:
        """Note how an attempt that made nothing ended, and what it cost."""
        uses.append(self.attempts_file, {"event": "end", "at": uses.now(), **attempt})

    def failed_attempts(self) -> list[dict[str, Any]]:
        """Those since it was last made, oldest first; of a killed one only its stage is known."""
        open_: dict[str, dict[str, Any]] = {}
        for record in uses.read(self.attempts_file):
            if record.get("event") == "made":
                open_ = {}
            elif record.get("event") == "begin":
                open_[str(record["stage_id"])] = {**record, "status": "killed"}
            elif record.get("stage_id") in open_:
                open_[str(record["stage_id"])] |= record
        return list(open_.values())

    def commit(
        self,
        *,
        ledger: Mapping[str, int | None] | None = None,
        signal: Mapping[str, Any] | None = None,
        production: Production | None = None,
        parents: Sequence[Artifact | Mapping[str, Any]] | None = None,
        failed: Sequence[dict[str, Any]] = (),
        regenerate: str | None = None,
        imported: Manifest | None = None,
    ) -> Artifact:
        """Make it an artifact: all on the disk, manifest last, then under its name. Raises DistillError.

        `failed`: attempts before, as `Production.attempt` has them. `regenerate`: why it is made though it
        is there; what was there keeps its manifest and uses, among the superseded, and loses its files.
        """
        target = self._kind / self.spec.id
        before = _predecessor(target)
        if target.exists() and regenerate is None:
            raise DistillError(
                "it is there already", where=str(target), cure="--regenerate REASON makes it again"
            )
        files = m.describe(self.folder)
        if not files:
            raise DistillError("nothing was written, so there is no artifact", where=str(self.folder))
        made_of = self.parents if parents is None else parents
        counted = self.ledger if ledger is None else ledger
        if strange := set(counted) - set(m.LEDGER):
            raise DistillError(f"the ledger counts {', '.join(m.LEDGER)}, not {', '.join(sorted(strange))}")
        spent = with_attempts(production or unknown("nobody asked what making it cost"), failed)
        found = imported or Manifest(
            spec=self.spec, artifact_id=f"{self.spec.id}.{secrets.token_hex(4)}", files=files,
            production=spent, ledger={unit: counted.get(unit) for unit in m.LEDGER},
            signal=self.signal if signal is None else signal,
            parents=tuple(p.as_parent() if isinstance(p, Artifact) else p for p in made_of),
            licence=self.licence, created=uses.now(),
            regenerated=None if regenerate is None else {"reason": regenerate, **before},
        )  # fmt: skip
        m.write(self.folder / m.CARD, cards.card(found))
        m.write(self.folder / m.MANIFEST, found.text)
        if target.exists():
            old = (
                self._kind
                / ".superseded"
                / str(before["predecessor"] or f"{self.spec.id}.{secrets.token_hex(4)}")
            )
            target.rename(old)
            self.folder.rename(target)
            _keep_record(old)
        else:
            self.folder.rename(target)
        self._done = True
        uses.sync_folder(target.parent)
        uses.append(self.attempts_file, {"event": "made", "at": uses.now(), "artifact_id": found.artifact_id})
        return Artifact(target, found, self.spec)

    def _restore(self) -> None:
        """End a replacement that a kill cut short: put the old one back, or let its files go."""
        target, superseded = self._kind / self.spec.id, self._kind / ".superseded"
        for old in sorted(superseded.glob(f"{self.spec.id}.*"), key=lambda p: p.stat().st_mtime):
            if target.exists():
                _keep_record(old)
                continue
            found = m.load(old)
            if found is not None and not m.problems(old, found, hashes=False):
                old.rename(target)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def must_be_whole(artifact: Artifact, *, hashes: bool = True) -> None:
    """Raises DistillError if files are not as the manifest says; `hashes`: their content too."""
    found = m.problems(artifact.folder, artifact.manifest, hashes=hashes)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DistillError(
            f"artifact {artifact.id[:12]} is damaged: {found[0]}{more}",
            where=str(artifact.folder),
            cure="make it again with --regenerate REASON, or import it again",
        )


def _predecessor(target: Path) -> dict[str, Any]:
    """What is known of what is there now."""
    try:
        found = m.load(target)
    except DistillError:
        found = None
    if found is None:
        return {"predecessor": None, "energy_j": None}
    return {"predecessor": found.artifact_id, "energy_j": found.production.energy_j}


def _keep_record(old: Path) -> None:
    """Leave manifest, card and uses of a superseded artifact. Who has its files open may read on."""
    for path in old.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in m.OURS:
            path.unlink()


def _lock(path: Path, *, wait: bool = True) -> IO[str] | None:
    """The lock file, held; None if another process holds it and we do not wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")  # never unlinked: another process may hold it open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            file.close()
            return None
        log.info("another process makes %s; waiting for it", path.name[:12])
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _cannot_write(error: OSError, where: Path) -> DistillError:
    said = NO_ROOM.get(error.errno or 0) or error.strerror or str(error)
    full = error.errno in NO_ROOM
    return DistillError(
        f"the artifact was not made: {said}",
        where=str(where),
        cure="make room, or set reuse.root to another disk" if full else "a reuse.root that you may write to",
    )
