"""Which artifacts are here, what did they cost, who used them? `distill artifacts …`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from energyd_pipelines.errors import DistillError

if TYPE_CHECKING:
    from energyd_pipelines.artifacts import Artifact, Registry

ROOT = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("artifacts"), show_default=True,
    envvar="DISTILL_ARTIFACTS", help="Folder of the registry: reuse.root of a study (or DISTILL_ARTIFACTS).",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="For programs; units are in the keys.")


def told(command: Callable[..., Any]) -> Callable[..., Any]:
    """Tell what is wrong in three lines, and end with its exit code."""

    @wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except DistillError as error:
            click.echo(f"distill: {error}", err=True)
            sys.exit(error.code)

    return run


@click.group()
def artifacts() -> None:
    """What teachers made, what it cost, and who reused it.

    \b
    Examples:
      distill artifacts list
      distill artifacts show 3f2a
      distill artifacts export 3f2a -o cache.tar
    """


@artifacts.command("list")
@ROOT
@JSON
@told
def list_(root: Path, as_json: bool) -> None:
    """One line each: kind, size, what it cost, by how many runs it was used.

    \b
    Example:
      distill artifacts list
    """
    found = list(_registry(root).all())
    if as_json:
        click.echo(json.dumps([_summary(a) for a in found], indent=2, ensure_ascii=False))
        return
    if not found:
        click.echo(f"no artifacts in {root}")
        return
    row = "{:<12}  {:<9}  {:>9}  {:>11}  {:>10}  {:>4}  {}"
    click.echo(row.format("id", "kind", "size", "energy", "origin", "uses", "created"))
    for a in found:
        production = a.manifest.production
        joules = "-" if production.total_j is None else f"{production.total_j:.4g} J"
        size, created = _size(a.manifest.bytes), a.manifest.created[:19]
        click.echo(
            row.format(a.id[:12], a.manifest.spec.kind, size, joules, production.origin or "-", a.n, created)
        )


@artifacts.command()
@click.argument("id")
@ROOT
@JSON
@told
def show(id: str, root: Path, as_json: bool) -> None:
    """Everything known of one: specification, files, energy, attempts, parents, uses.

    \b
    Example:
      distill artifacts show 3f2a
    """
    found = _registry(root).get(id)
    whole = {**found.manifest.as_json(), "uses": found.uses(), "uses_n": found.n, "folder": str(found.folder)}
    if as_json:
        click.echo(json.dumps(whole, indent=2, ensure_ascii=False))
        return
    import yaml

    click.echo(yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110), nl=False)


@artifacts.command()
@click.argument("ids", nargs=-1, metavar="[ID]…")
@ROOT
@JSON
@told
def verify(ids: tuple[str, ...], root: Path, as_json: bool) -> None:
    """Compare every byte with the manifest, of all artifacts or those named. Exit 1 if one is damaged.

    \b
    Example:
      distill artifacts verify
    """
    from energyd_pipelines.artifacts.manifest import problems

    registry = _registry(root)
    if not ids and not _folders(root):
        raise DistillError("there is nothing to verify", where=str(root), cure="--root FOLDER")
    checked = [(a, problems(a.folder, a.manifest)) for a in map(registry.get, ids or _folders(root))]
    if as_json:
        plain = [{"id": a.id, "kind": a.manifest.spec.kind, "problems": found} for a, found in checked]
        click.echo(json.dumps(plain, indent=2))
    else:
        for a, found in checked:
            click.echo(f"{a.id[:12]}  {'whole' if not found else 'DAMAGED: ' + '; '.join(found)}")
    if any(found for _, found in checked):
        sys.exit(1)


@artifacts.command()
@click.argument("id")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The tar; default KIND-ID.tar here.")
@ROOT
@told
def export(id: str, output: Path | None, root: Path) -> None:
    """One tar of it: manifest, card and files, for another machine or a hub.

    \b
    Example:
      distill artifacts export 3f2a -o cache.tar
    """
    from energyd_pipelines.artifacts import transfer

    found = _registry(root).get(id)
    click.echo(transfer.export(found, output or Path(f"{found.manifest.spec.kind}-{found.id[:12]}.tar")))


@artifacts.command("import")
@click.argument("tar", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@ROOT
@JSON
@told
def import_(tar: Path, root: Path, as_json: bool) -> None:
    """Take in an exported tar: every byte checked, its joules marked `reported`.

    \b
    Example:
      distill artifacts import cache.tar
    """
    from energyd_pipelines.artifacts import transfer

    found, new = transfer.take_in(_registry(root), tar)
    if new:
        transfer.announce(found)
    if as_json:
        click.echo(json.dumps({**_summary(found), "new": new}, indent=2, ensure_ascii=False))
    else:
        click.echo(f"{found.id[:12]}  {'taken in' if new else 'is here already'}: {found.folder}")


def _registry(root: Path) -> Registry:
    from energyd_pipelines.artifacts import Registry

    if root.exists() and not root.is_dir():
        raise DistillError("the registry is no folder", where=str(root), cure="--root FOLDER", code=2)
    return Registry(root)


def _folders(root: Path) -> list[str]:
    """Ids of everything that stands under its name, whole or not."""
    return sorted(p.name for p in root.glob("*/[0-9a-f]*") if p.is_dir())


def _summary(a: Artifact) -> dict[str, Any]:
    production = a.manifest.production
    return {
        "id": a.id, "artifact_id": a.manifest.artifact_id, "kind": a.manifest.spec.kind,
        "size_bytes": a.manifest.bytes, "energy_j": production.energy_j, "total_j": production.total_j,
        "u_total_j": production.u_total_j, "reason": production.reason, "origin": production.origin,
        "attempts": len(production.attempts), "uses_n": a.n, "created": a.manifest.created,
        "licence": a.manifest.licence, "folder": str(a.folder),
    }  # fmt: skip


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


if __name__ == "__main__":
    artifacts()
