"""Who is this process, and what explains its runs later?

Read from the interpreter and the file system only: no git, no NVML, no import of torch.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Final

from energyd_client import clock
from energyd_client.protocol import VERSION, Hello
from energyd_client.version import __version__

_SECRET: Final = re.compile(r"(^|[-_])(token|password|passwd|secret|api[-_]?key|auth)$", re.IGNORECASE)
_JOB_VARIABLES: Final = ("SLURM_JOB_ID", "RANK", "WORLD_SIZE", "LOCAL_RANK")
MAX_ARGV: Final = 2_000
"""Characters of the command line that a run keeps."""


def new_client_id() -> str:
    """A name for this process that no other process has, now or later. The pid in it is for people."""
    return f"{os.getpid()}-{os.urandom(8).hex()}"


def hello(client: str) -> Hello:
    """How this process introduces itself."""
    pid = os.getpid()
    return Hello(
        v=VERSION,
        client=client,
        pid=pid,
        start_ticks=clock.start_ticks(pid),
        boot_id=clock.boot_id(),
        timens=clock.timens_inode(),
        version=__version__,
    )


def program_name() -> str:
    """The script's name without folder and suffix; `interactive` where there is none."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is not None and main.name not in ("__main__", ""):  # python -m package.module
        name: str = main.name.removesuffix(".__main__")
        return name
    return Path(sys.argv[0] if sys.argv else "").stem.strip("-") or "interactive"


def environment() -> dict[str, str]:
    """What a run keeps of its surroundings: command line without secrets, versions, job numbers."""
    system = os.uname()
    found = {
        "argv": command_line(list(sys.argv))[:MAX_ARGV],
        "cwd": _cwd(),
        "python": sys.version.split()[0],
        "hostname": system.nodename,
        "kernel": system.release,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = str(getattr(torch, "__version__", ""))
        found["cuda"] = str(getattr(getattr(torch, "version", None), "cuda", None) or "")
    found |= {v.lower(): os.environ.get(v, "") for v in _JOB_VARIABLES}
    return {k: clean(v)[:MAX_ARGV] for k, v in found.items() if v}


def command_line(argv: list[str]) -> str:
    """Arguments joined by spaces; the values of options named like secrets are masked."""
    shown: list[str] = []
    mask_next = False
    for argument in argv:
        option, equals, _ = argument.partition("=")
        secret = bool(_SECRET.search(option))
        if secret and equals:
            shown.append(f"{option}=***")
        elif mask_next and not argument.startswith("-"):
            shown.append("***")
        else:
            shown.append(argument)
        mask_next = secret and not equals and option.startswith("-")
    return " ".join(shown)


def git_commit(folder: Path | None = None) -> str | None:
    """The commit that is checked out around `folder` (default: the working folder); None outside of git.

    Reads `.git` by hand, worktrees, submodules and packed refs included, since starting git takes
    milliseconds. It cannot say whether there are changes.
    """
    try:
        start = folder or Path.cwd()
        for place in (start, *start.parents):
            if (place / ".git").exists():
                return _head(place / ".git")
    except (OSError, UnicodeDecodeError):
        pass  # an unreadable repository explains no less than none
    return None


def _head(git: Path) -> str | None:
    if git.is_file():  # a worktree or submodule: "gitdir: PATH"
        git = (git.parent / git.read_text().partition(":")[2].strip()).resolve()
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref:"):
        return _hash(head)
    ref = head.partition(":")[2].strip()
    common = git
    if (git / "commondir").is_file():
        common = (git / (git / "commondir").read_text().strip()).resolve()
    for place in (git, common):
        if (place / ref).is_file():
            return _hash((place / ref).read_text().strip())
    with (common / "packed-refs").open() as lines:
        for line in lines:
            commit, _, name = line.strip().partition(" ")
            if name == ref:
                return _hash(commit)
    return None


def _hash(text: str) -> str | None:
    return text if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) else None


def clean(text: str) -> str:
    """`text` without lone surrogates, which paths can hold and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""
