"""Are the commands quick to ask for help, complete in a shell, and does each show how it is used?"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from energyd.cli import main as energyd
from energyd_pipelines.cli import cli as distill
from energyq.commands import cli as energyq

HEAVY = (
    "duckdb", "zmq", "rich", "numpy", "pynvml", "msgspec", "codecarbon", "subprocess", "asyncio", "torch",
)  # fmt: skip


def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not command.hidden:
        yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from walk(one, (*path, name))


ALL = [*walk(energyd, ("energyd",)), *walk(energyq, ("energyq",)), *walk(distill, ("distill",))]


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_commands_help_has_an_example_of_it_that_it_would_take(
    path: tuple[str, ...], command: click.Command
) -> None:
    text = (command.help or "").replace("\b", "")
    assert "Example" in text
    said = " ".join(path)
    shown = [x.partition(". ")[0] for x in re.findall(rf"{said}\b[^\n]*", text.partition("Example")[2])]
    assert shown, f"no example of {said}"
    for line in [] if isinstance(command, click.Group) else shown:
        words = shlex.split(line.partition(")")[0].strip('"'))[len(path) :]
        words = words[: words.index("--")] if "--" in words else words
        known = {option for one in command.params for option in one.opts}
        used = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        assert used - known == set(), line


@pytest.mark.parametrize(
    ("program", "package"),
    [("energyd", "energyd"), ("energyq", "energyq"), ("distill", "energyd_pipelines")],
)
def test_help_imports_nothing_heavy(program: str, package: str) -> None:
    code = f"import sys; sys.argv = ['{program}', '--help']\nfrom {package}.cli import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(re.findall(r"'([a-z]+)'", done.stderr))
    assert "click" in loaded
    assert loaded & set(HEAVY) == set()
    assert "Example" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("energyd mark b", ["begin"]), ("energyd sta", ["start", "status"]), ("energyd run --na", ["--name"]),
     ("energyq ver", ["verify"]), ("energyq --form", ["--format"])],
)  # fmt: skip
def test_bash_completes_commands_and_options(typed: str, offered: list[str], tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash missing")
    for program in ("energyd", "energyq"):
        script = tmp_path / program
        call = "main()" if program == "energyd" else "sys.exit(main())"
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.argv[0] = '{program}'\n"
            f"from {program}.cli import main\n{call}\n"
        )
        script.chmod(0o755)
    program = typed.split(maxsplit=1)[0]
    words = " ".join(shlex.quote(word) for word in typed.split())
    asked = f"""eval "$(_{program.upper()}_COMPLETE=bash_source {program})"
        COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _{program}_completion {program}
        printf '%s\\n' "${{COMPREPLY[@]}}" """
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", asked], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert set(offered) <= set(done.stdout.split()), done.stdout
