"""Which settings does a study have, and how do a file and `key=value` words become them?

Frozen dataclasses, filled from a preset or a YAML file and then from dotted words such as `train.steps=300`
or `students.0.width=32`. An unknown key is an error that names the nearest one. What came out is saved with
each run and hashed: `Config.hash` of all of it, `Config.train_hash` of what must be alike to be compared.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import types
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from energyd_pipelines.errors import DistillError
from energyd_pipelines.limits import must_make_sense

USAGE = 2


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One model: `ref` says whose weights or shape.

    `decoder` (a small one of the sizes below), `builtin:strings-v1` (the shipped teacher), a name or folder
    of transformers (any causal LM), or with `weights: random` one of the true shapes, such as `olmo2-7b`.
    """

    name: str
    ref: str = "decoder"
    revision: str | None = None
    weights: Literal["pretrained", "random"] = "pretrained"
    width: int = 64
    layers: int = 2
    heads: int = 4
    ffn: int = 0  # 0: 8/3 of the width, rounded up to a multiple of 8


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learnt. `strings` is made here; the others read messages, or prompt and completion."""

    task: Literal["strings", "jsonl", "datasets"] = "strings"
    path: str = ""  # a JSONL file; a dataset's name or a folder of `save_to_disk`
    eval_path: str = ""  # held-out JSONL; empty: `n_eval` examples of the data are held out
    split: str = "train"
    tokenizer: str = ""  # of transformers; empty: the first student's
    messages: str = "messages"  # names of columns
    prompt: str = "prompt"
    completion: str = "completion"
    n: int = 6000  # examples to learn from; 0: all
    n_eval: int = 700
    noise: float = 0.2  # strings: share of labels with one wrong character
    longest: int = 6  # strings: letters of the longest word; longer ones are harder to get wholly right
    max_len: int = 24  # tokens; longer examples are left out and counted
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class KdConfig:
    """Learning from cached logits: alpha·CE + (1 − alpha)·tau²·KL of the teacher's top k."""

    k: int = 8
    alpha: float = 0.3
    tau: float = 1.0
    tail: Literal["bucket", "renorm", "none"] = "bucket"
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0)  # for which the cache is exact
    batch: int = 256  # examples at once through the teacher


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Learning from what the teacher writes."""

    temperature: float = 0.0  # 0: the likeliest token
    top_p: float = 1.0
    max_new: int = 12
    batch: int = 0  # 0: the largest that fits
    prompts: int = 0  # 0: all of the data's
    static_cache: bool = True
    graph: bool = False  # on a GPU: each step one CUDA graph (docs/results/h100-study.md: what that saves)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters instead of all weights, where r > 0: an axis of its own, never mixed in one frontier."""

    r: int = 0
    alpha: int = 16
    dropout: float = 0.0
    targets: str = "all-linear"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One loop for all pipelines and sizes. A step is one update by the optimiser."""

    optimizer: Literal["adafactor", "adamw", "muon"] = "adafactor"
    lr: float = 2.5e-3  # at its peak; adafactor scales it by each weight's root mean square (about 0.02)
    weight_decay: float = 0.0
    warmup: int = 20  # steps, then a cosine down to a tenth
    clip: float = 1.0  # of the gradient's norm; 0: none
    batch: int = 64  # examples a step, over all devices
    micro_batch: int = 0  # examples at once on a device; 0: all of the device's share
    steps: int = 700
    stop: Literal["budget", "to_target"] = "budget"
    target: float | None = None  # quality at which `to_target` stops; `steps` is then the most
    metric: Literal["exact_match", "nll"] = "exact_match"  # which quality that is
    eval_every: int = 0  # steps; 0: only at the end
    checkpoint_every: int = 0  # steps; 0: only at the end
    group_steps: int = 100  # steps that are one stage `steps A-B`
    bucket: bool = True  # batches of examples that are about as long
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the weights
    gradient_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True, kw_only=True)
class PrerunConfig:
    """What the machine takes before there is work."""

    idle_s: float = 3.0
    context_s: float = 0.0  # with the device's context made, still idle
    burn_s: float = 0.0  # busy, so that clocks and fans are where work finds them


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How good did the student become?"""

    n: int = 0  # held-out examples; 0: all
    batch: int = 256
    lm_eval: str = ""  # a result file of lm-eval, `{student}`, `{pipeline}` and `{seed}` filled in


@dataclass(frozen=True, kw_only=True)
class ReuseConfig:
    """Where teacher's artifacts lie; regeneration of what is there needs a reason."""

    root: str = "artifacts"
    regenerate: str | None = None


@dataclass(frozen=True, kw_only=True)
class SiteConfig:
    """Where the machine stands: what turns joules into grams on cards. Not known is never guessed."""

    region: str | None = None  # ISO 3166, such as CA-QC
    grid_g_per_kwh: float | None = None  # g CO2eq
    pue: float | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    """A study: pipelines × students × seeds over one data set, by one training configuration."""

    name: str = "study"
    students: tuple[ModelConfig, ...]
    teacher: ModelConfig | None = None
    pipelines: tuple[Literal["sft", "kd", "synthetic"], ...] = ("sft", "kd", "synthetic")
    seeds: tuple[int, ...] = (0,)
    device: str = "auto"
    threads: int = 1  # of PyTorch on the CPU; more than one spin and wait on small models
    out: str = "runs"  # folder of configurations, checkpoints and results
    data: DataConfig = field(default_factory=DataConfig)
    kd: KdConfig = field(default_factory=KdConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    prerun: PrerunConfig = field(default_factory=PrerunConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    reuse: ReuseConfig = field(default_factory=ReuseConfig)
    site: SiteConfig = field(default_factory=SiteConfig)

    def as_dict(self) -> dict[str, Any]:
        """Everything, defaults too, as YAML and JSON can hold it."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @property
    def hash(self) -> str:
        """Of what decides the results: all but where things lie and why something was made again."""
        aside = ("out", "reuse", "site", "seeds", "pipelines")
        return digest({k: v for k, v in self.as_dict().items() if k not in aside})

    @property
    def train_hash(self) -> str:
        """Of what the paper wants equal in all runs of a study: the training configuration and the data."""
        return digest({"train": asdict(self.train), "data": asdict(self.data), "threads": self.threads})


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of the SHA-256 of `value` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def presets() -> list[str]:
    """Names of the configurations that are shipped."""
    folder = files("energyd_pipelines").joinpath("presets")
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(source: str, words: Sequence[str] = ()) -> Config:
    """The configuration of a preset or a YAML file, with `key=value` words on top. Raises DistillError."""
    if source in presets():
        text = files("energyd_pipelines").joinpath("presets", f"{source}.yaml").read_text(encoding="utf-8")
    elif Path(source).suffix in (".yaml", ".yml"):
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DistillError(
                f"cannot read {source}: {error}", cure="name a YAML file", code=USAGE
            ) from error
    else:
        near = difflib.get_close_matches(source, presets(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(presets())}, or FILE.yaml"
        raise DistillError(f"no preset is called {source}", cure=hint, code=USAGE)
    values = parse_yaml(text, source)
    if not isinstance(values, dict):
        raise DistillError(f"{source} holds no settings", cure="`key: value` lines", code=USAGE)
    for word in words:
        override(values, word)
    config: Config = build(Config, values, source)
    must_make_sense(config, source)
    train = config.train
    if train.stop == "to_target" and (train.target is None or not train.eval_every):
        raise DistillError(
            "train.stop is to_target, which needs a target and evaluations on the way", where=source,
            cure="train.target=0.6 train.eval_every=50", code=USAGE,
        )  # fmt: skip
    if train.lora.r > 0 and train.optimizer == "adafactor":
        raise DistillError(  # its steps are a share of a weight's size, and half of an adapter begins as 0
            "adafactor hardly moves adapters", where="train.lora", cure="train.optimizer=adamw", code=USAGE
        )
    return config


def build(kind: Any, values: Any, where: str, path: str = "") -> Any:
    """A dataclass of type `kind` from plain values, every key and type looked at. Raises DistillError."""
    if not isinstance(values, dict):
        raise DistillError(
            f"{path or where} must be a group of settings, not {values!r:.40}", where=where, code=USAGE
        )
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            hint = f"did you mean {_dotted(path, near[0])}?" if near else f"one of {', '.join(hints)}"
            raise DistillError(f"unknown key {_dotted(path, key)}", where=where, cure=hint, code=USAGE)
    found = {key: _convert(hints[key], value, where, _dotted(path, key)) for key, value in values.items()}
    for f in fields(kind):
        if f.name not in found and f.default is MISSING and f.default_factory is MISSING:
            raise DistillError(f"{_dotted(path, f.name)} is not set", where=where, cure="set it", code=USAGE)
    return kind(**found)


def _convert(hint: Any, value: Any, where: str, path: str) -> Any:
    """`value` as what `hint` says, or the error that says what it must be."""
    origin, wanted = get_origin(hint), ""
    found: Any = value
    if is_dataclass(hint):
        found = build(hint, value, where, path)
    elif origin in (Union, types.UnionType):
        kind = next(a for a in get_args(hint) if a is not type(None))
        found = None if value is None else _convert(kind, value, where, path)
    elif origin is tuple:
        listed = value if isinstance(value, list) else [value]
        found = tuple(_convert(get_args(hint)[0], v, where, f"{path}.{i}") for i, v in enumerate(listed))
    elif origin is Literal:
        wanted = "" if value in get_args(hint) else " | ".join(map(str, get_args(hint)))
    elif hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            found = float(value)  # PyYAML reads 5e-3 as a word
        except (ValueError, OverflowError):
            wanted = "a number"
    elif not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        wanted = {int: "a whole number", bool: "true or false", str: "a word", float: "a number"}[hint]
    elif isinstance(value, str) and "\0" in value:  # no file has such a name
        wanted = "a word without \\0"
    if wanted:
        raise DistillError(f"{path} is {value!r:.60}", where=where, cure=wanted, code=USAGE)
    return found


def override(values: dict[str, Any], word: str) -> None:
    """Put one `a.b.0.c=value` into nested settings."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        raise DistillError(f"{word!r} is no setting", cure="key=value, such as train.steps=300", code=USAGE)
    at: Any = values
    parts = key.split(".")
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if isinstance(at, list):
            if not part.isdigit() or int(part) >= len(at):
                raise DistillError(
                    f"{key}: there is no number {part}", cure=f"0 to {len(at) - 1}", code=USAGE
                )
            step: Any = int(part)
        else:
            step = part
            if not last and not isinstance(at.get(part), (dict, list)):
                at[part] = {}  # `build` looks whether such a group exists
        if last:
            at[step] = parse_yaml(text, word)
        else:
            at = at[step]
            if not isinstance(at, (dict, list)):
                raise DistillError(f"{key}: {part} is no group of settings", where=word, code=USAGE)


def parse_yaml(text: str, where: str) -> Any:
    """What a text says; `where` it stands is for the error. Raises DistillError."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise DistillError(f"not YAML: {said:.120}", where=where, cure="mend the line", code=USAGE) from error


def _dotted(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)
