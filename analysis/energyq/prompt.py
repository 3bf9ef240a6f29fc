"""How does one ask question after question? A prompt with history; a statement ends with ;"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from energyq.examples import show_examples
from energyq.formats import write
from energyq.tables import show_tables

if TYPE_CHECKING:
    from energyd.store.read import Reader

KEPT: Final = 2_000  # lines of history
HELP: Final = """SQL, ended by ;   .tables  .examples  .help  .quit"""


def ask_and_answer(reader: Reader) -> None:
    """Read statements until .quit or the end of input. A wrong one is one message, and the prompt goes on."""
    from energyd.store.read import ReadError

    click.echo(f"energyq: {reader.store} ({reader.source}). {HELP}")
    with _history():
        for statement in _statements():
            word = statement.strip().rstrip(";").lower()
            try:
                if word in (".quit", ".exit"):
                    return
                if word == ".tables":
                    show_tables(reader, "table", None)
                elif word == ".examples":
                    show_examples(None)
                elif word.startswith("."):
                    click.echo(HELP)
                else:
                    write(reader.sql(statement), "table", None)
            except ReadError as error:
                click.echo(f"energyq: {error}", err=True)
            except KeyboardInterrupt:
                click.echo("stopped", err=True)


def _statements() -> Iterator[str]:
    """Whole statements: lines up to one that ends with ;, or one that begins with a dot."""
    lines: list[str] = []
    while True:
        try:
            line = input("...> " if lines else "energyq> ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:  # as in a shell: what was typed is forgotten
            click.echo()
            lines = []
            continue
        if not line.strip() and not lines:
            continue
        lines.append(line)
        if line.rstrip().endswith(";") or (len(lines) == 1 and line.lstrip().startswith(".")):
            yield "\n".join(lines)
            lines = []


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Arrow keys bring back what was asked, also from earlier times; where nothing can be kept, go on."""
    try:
        import readline
    except ImportError:  # a Python built without it
        yield
        return
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    path = Path(base) / "energyq" / "history"
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(KEPT)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)
            path.chmod(0o600)
