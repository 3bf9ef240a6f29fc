"""Which settings have the right type and still make no sense? Said before anything runs, so nothing is lost.

Each is one line: where it stands, what it must be, and whether it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from energyd_pipelines import strings_task
from energyd_pipelines.errors import DistillError

if TYPE_CHECKING:
    from energyd_pipelines.config import Config

Test = Callable[[Any], bool]
Rule = tuple[str, Test, str]


def _from(least: float, most: float) -> tuple[Test, str]:
    return lambda v: least <= v <= most, f"from {least:g} to {most:g}"


def _at_least(least: float) -> tuple[Test, str]:
    return lambda v: least <= v < math.inf, f"{least:g} or more, and finite"


def _above_0(value: Any) -> bool:
    return math.isfinite(value) and value > 0


def _is_name(value: str) -> bool:
    """It becomes a folder's: what leaves the folder above it, or no disk takes, is none."""
    if not value.isprintable() or "/" in value or value[:1] in ("", "."):
        return False
    return len(value.encode()) <= 100


def _unless_none(test: Test, wanted: str) -> tuple[Test, str]:
    return lambda v: v is None or test(v), wanted


def _is_seed(value: int) -> bool:
    return 0 <= value < 2**63  # numpy takes nothing below, torch nothing above


POSITIVE: Final = (_above_0, "above 0")
SHARE: Final = _from(0, 1)
SEED: Final = (_is_seed, "from 0 to 2^63 - 1")
SOME: Final = (lambda v: len(v) > 0 and len(set(v)) == len(v), "one or more, each once")
TAU: Final = _from(0.01, 1000)  # beyond, float32 holds neither exp(z / tau) nor tau² · KL
DAY_S: Final = _from(0, 86_400)
NAME: Final = (_is_name, "what a folder can be called: up to 100 bytes, no /, no dot first")
DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
MOST_STRINGS: Final = 10_000_000  # they are drawn one by one, 10 to 20 µs each, and lie in memory

RULES: Final[tuple[Rule, ...]] = (
    ("name", *NAME), ("device", lambda v: DEVICE.fullmatch(v) is not None, "auto, cpu, cuda or cuda:N"),
    ("pipelines", *SOME), ("seeds", *SOME), ("seeds", lambda v: all(map(_is_seed, v)), f"each {SEED[1]}"),
    ("threads", *_from(1, 1024)),  # OpenMP dies of 100,000 without a word
    ("data.n", *_at_least(0)), ("data.n_eval", *_at_least(0)), ("data.noise", *SHARE), ("data.seed", *SEED),
    ("data.max_len", *_at_least(2)), ("data.longest", *_at_least(3)),
    ("kd.k", *_at_least(1)), ("kd.alpha", *SHARE), ("kd.tau", *TAU), ("kd.batch", *_at_least(1)),
    ("kd.temperatures", lambda v: all(map(TAU[0], v)), f"all {TAU[1]}"),
    ("generate.temperature", *_at_least(0)), ("generate.max_new", *_at_least(1)),
    ("generate.top_p", *_from(1e-6, 1)), ("generate.batch", *_at_least(0)),
    ("generate.prompts", *_at_least(0)), ("generate.seed", *SEED),
    ("train.steps", *_at_least(1)), ("train.batch", *_at_least(1)), ("train.lr", *POSITIVE),
    ("train.warmup", *_at_least(0)), ("train.clip", *_at_least(0)), ("train.micro_batch", *_at_least(0)),
    ("train.weight_decay", *_at_least(0)), ("train.eval_every", *_at_least(0)),
    ("train.checkpoint_every", *_at_least(0)), ("train.group_steps", *_at_least(1)),
    ("train.target", *_unless_none(math.isfinite, "a finite number")),
    ("train.lora.r", *_at_least(0)), ("train.lora.alpha", *_at_least(1)),
    ("train.lora.dropout", lambda v: 0 <= v < 1, "0 or more, below 1"),
    ("prerun.idle_s", *DAY_S), ("prerun.context_s", *DAY_S), ("prerun.burn_s", *DAY_S),
    ("evaluate.n", *_at_least(0)), ("evaluate.batch", *_at_least(1)),
    ("site.grid_g_per_kwh", *_unless_none(*_at_least(0))), ("site.pue", *_unless_none(*_at_least(1))),
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
    data = config.data
    if data.task == "strings":  # they are made, so there is no `all` of them
        if data.n == 0:
            yield "data.n is 0, which is all of a file; the task strings is made to order", "data.n=6000"
        # Half of what there is: the last ones would be drawn for ever.
        there_are = min(MOST_STRINGS, strings_task.n_prompts(data.longest) // 2)
        if data.n + data.n_eval > there_are:
            yield (
                f"data.n and data.n_eval are {data.n + data.n_eval} strings",
                f"up to {there_are} with data.longest={data.longest}",
            )
    elif not data.path:
        yield f"data.path is empty, and data.task is {data.task}", "data.path=FILE.jsonl, or a data set"
    if data.n_eval == 0 and not data.eval_path:
        yield "data.n_eval is 0, so there would be nothing to measure quality on", "data.n_eval=700"
    try:
        config.evaluate.lm_eval.format(student="S", pipeline="sft", seed=0)
    except (ValueError, LookupError, AttributeError):
        yield (
            f"evaluate.lm_eval is {config.evaluate.lm_eval!r:.60}",
            "a path, in which {student}, {pipeline} and {seed} are filled in",
        )


def _students(config: Config) -> Iterator[tuple[str, str]]:
    names = [s.name for s in config.students]
    if not names:
        yield "students is [], so nothing would be trained", "students: [{name: S, width: 48}]"
    twice = _first(n for n in names if names.count(n) > 1)
    if twice is not None:
        yield f"two students are called {twice}, and their runs could not be told apart", "names of their own"
    odd = _first(n for n in names if not _is_name(n))
    if odd is not None:
        yield f"a student is called {odd!r:.40}, which can be no folder's name", NAME[1]
    for model in (*config.students, *([config.teacher] if config.teacher else [])):
        for key, least in (("width", 1), ("layers", 1), ("heads", 1), ("ffn", 0)):
            if getattr(model, key) < least:
                yield f"{key} of model {model.name} is {getattr(model, key)}", f"{least} or more"


def _teacher(config: Config) -> Iterator[tuple[str, str]]:
    needs = _first(p for p in config.pipelines if p != "sft")
    if needs is not None and config.teacher is None:
        yield f"pipeline {needs} needs a teacher", "teacher: {name: …, ref: …}, or pipelines=[sft]"
    teacher = config.teacher
    fresh = teacher is not None and (teacher.ref, teacher.weights) == ("decoder", "pretrained")
    if needs is not None and teacher is not None and fresh:
        yield f"teacher {teacher.name} has no ref, so it would have learnt nothing", "teacher.ref=FOLDER"
    if config.generate.graph and not config.generate.static_cache:
        yield "generate.graph needs a cache that does not grow", "generate.static_cache=true"
    if config.reuse.regenerate is not None and not config.reuse.regenerate.strip():
        yield "making it again needs a reason", "--regenerate 'what was wrong with it'"


def _first(found: Iterable[str]) -> str | None:
    return next(iter(found), None)
