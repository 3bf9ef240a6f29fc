"""Which settings have the right type and still make no sense? Said before anything runs, so nothing is lost.

Each is one line: where it stands, what it must be, and whether it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from energyd_pipelines.errors import DistillError

if TYPE_CHECKING:
    from energyd_pipelines.config import Config

Test = Callable[[Any], bool]
Rule = tuple[str, Test, str]


def _at_least(least: float) -> tuple[Test, str]:
    return lambda v: v >= least, f"{least:g} or more"


def _above_0(value: Any) -> bool:
    return math.isfinite(value) and value > 0


def _filled_in(path: str) -> bool:
    try:
        path.format(student="", pipeline="", seed=0)
    except (KeyError, IndexError, ValueError):
        return False
    return True


POSITIVE: Final = (_above_0, "above 0")
SHARE: Final = (lambda v: 0 <= v <= 1, "from 0 to 1")
SOME: Final = (lambda v: len(v) > 0 and len(set(v)) == len(v), "one or more, each once")

RULES: Final[tuple[Rule, ...]] = (
    ("pipelines", *SOME), ("seeds", *SOME), ("threads", *_at_least(1)),
    ("seeds", lambda v: min(v) >= 0, "0 or more, each"), ("data.seed", *_at_least(0)),
    ("generate.seed", *_at_least(0)),
    ("data.n", *_at_least(0)), ("data.n_eval", *_at_least(0)), ("data.noise", *SHARE),
    ("data.max_len", *_at_least(2)), ("data.longest", *_at_least(3)),
    ("kd.k", *_at_least(1)), ("kd.alpha", *SHARE), ("kd.tau", *POSITIVE), ("kd.batch", *_at_least(1)),
    ("kd.temperatures", lambda v: all(map(_above_0, v)), "all above 0"),
    ("generate.temperature", *_at_least(0)), ("generate.max_new", *_at_least(1)),
    ("generate.top_p", lambda v: 0 < v <= 1, "above 0, at most 1"), ("generate.batch", *_at_least(0)),
    ("generate.prompts", *_at_least(0)),
    ("train.steps", *_at_least(1)), ("train.batch", *_at_least(1)), ("train.lr", *POSITIVE),
    ("train.warmup", *_at_least(0)), ("train.clip", *_at_least(0)), ("train.micro_batch", *_at_least(0)),
    ("train.weight_decay", *_at_least(0)), ("train.eval_every", *_at_least(0)),
    ("train.checkpoint_every", *_at_least(0)), ("train.group_steps", *_at_least(1)),
    ("train.lora.r", *_at_least(0)), ("train.lora.alpha", *_at_least(1)),
    ("train.lora.dropout", lambda v: 0 <= v < 1, "0 or more, below 1"),
    ("prerun.idle_s", *_at_least(0)), ("prerun.context_s", *_at_least(0)), ("prerun.burn_s", *_at_least(0)),
    ("evaluate.n", *_at_least(0)), ("evaluate.batch", *_at_least(1)),
    ("evaluate.lm_eval", _filled_in, "a path; {student}, {pipeline} and {seed} are filled in"),
    ("site.grid_g_per_kwh", lambda v: v is None or v >= 0, "0 or more"),
    ("site.pue", lambda v: v is None or v >= 1, "1 or more: the building takes what its machines take"),
)  # fmt: skip


def must_make_sense(config: Config, where: str) -> None:
    """Raises DistillError that names the first setting that cannot be meant, and what it must be."""
    for path, is_sound, wanted in RULES:
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        if not is_sound(value):
            shown = list(value) if isinstance(value, tuple) else value
            raise DistillError(f"{path} is {shown!r:.60}", where=where, cure=wanted, code=2)
    for said, cure in (*_data(config), *_students(config), *_teacher(config)):
        raise DistillError(said, where=where, cure=cure, code=2)


def _data(config: Config) -> Iterator[tuple[str, str]]:
    if config.data.task == "strings" and config.data.n == 0:  # they are made, so there is no `all` of them
        yield "data.n is 0, which is all of a file; the task strings is made to order", "data.n=6000"
    if config.data.n_eval == 0 and not config.data.eval_path:
        yield "data.n_eval is 0, so there would be nothing to measure quality on", "data.n_eval=700"


def _students(config: Config) -> Iterator[tuple[str, str]]:
    names = [s.name for s in config.students]
    if not names:
        yield "students is [], so nothing would be trained", "students: [{name: S, width: 48}]"
    twice = _first(n for n in names if names.count(n) > 1)
    if twice is not None:
        yield f"two students are called {twice}, and their runs could not be told apart", "names of their own"
    models = (*config.students, *([config.teacher] if config.teacher else []))
    flat = _first(m.name for m in models if min(m.width, m.layers, m.heads) < 1 or m.ffn < 0)
    if flat is not None:
        yield f"model {flat} has a size of less than nothing", "width, layers and heads from 1, ffn from 0"
    odd = _first(n for n in names if not n or "/" in n or n.startswith("."))
    if odd is not None:
        yield f"a student is called {odd!r:.40}, which can be no folder's name", "letters and digits"


def _teacher(config: Config) -> Iterator[tuple[str, str]]:
    needs = _first(p for p in config.pipelines if p != "sft")
    if needs is not None and config.teacher is None:
        yield f"pipeline {needs} needs a teacher", "teacher: {name: …, ref: …}, or pipelines=[sft]"
    if config.generate.graph and not config.generate.static_cache:
        yield "generate.graph needs a cache that does not grow", "generate.static_cache=true"
    if config.reuse.regenerate is not None and not config.reuse.regenerate.strip():
        yield "making it again needs a reason", "--regenerate 'what was wrong with it'"


def _first(found: Iterable[str]) -> str | None:
    return next(iter(found), None)
