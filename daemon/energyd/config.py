"""With which settings does this daemon run? Flags over environment over file over defaults, checked once."""

from __future__ import annotations

import difflib
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from energyd_client import endpoints

ENV_CARBON: Final = "ENERGYD_CARBON"
ENV_PRICE: Final = "ENERGYD_PRICE"  # both for `energyd top` alone
ENV_CONFIG: Final = "ENERGYD_CONFIG"
SETTINGS: Final[dict[str, str | None]] = {
    "store": None,
    "endpoint": endpoints.ENV_ENDPOINT,
    "spool": endpoints.ENV_SPOOL,
    "source": "ENERGYD_SOURCE",
    "listen": "ENERGYD_LISTEN",
    "speed": None,
    "interval": "ENERGYD_INTERVAL",
    "keep_raw": "ENERGYD_KEEP_RAW",
    "keep": "ENERGYD_KEEP",
    "max_size": "ENERGYD_MAX_SIZE",
    "metrics": "ENERGYD_METRICS",
    "otlp": "ENERGYD_OTLP",
    "lake": "ENERGYD_LAKE",
    "lake_keys": "ENERGYD_LAKE_KEYS",
    "ship": "ENERGYD_SHIP",
    "ship_each": "ENERGYD_SHIP_EACH",
    "outbox": "ENERGYD_OUTBOX",
}
"""Every setting, as a file and (with dashes) the flags name it, and its variable of the environment."""

RELOADED: Final = ("keep",)
"""What of Config a reload (SIGHUP) changes: how long and how much is kept. All else needs a restart."""

_TIMES: Final = {"h": 3_600, "d": 86_400}
_SIZES: Final = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


class ConfigError(Exception):
    """Settings that cannot be: what, where, cure in the text."""


@dataclass(frozen=True)
class Keep:
    """How long measurements are kept; None: for ever. What runs and stages cost is always kept."""

    raw_s: float | None = 7 * 86_400.0
    """Then samples are thinned to one a second."""
    all_s: float | None = 400 * 86_400.0
    """Then samples, counters, conditions, shares, clocks and markers of that day go."""
    max_bytes: float | None = 50e9
    """Above it the oldest days go, as if they were too old."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a daemon is told."""

    store: Path
    endpoint: str
    spool: Path
    source: str = "auto"
    speed: float = 1.0
    interval_s: float = 0.5
    keep: Keep = Keep()
    metrics: str | None = None  # HOST:PORT of the page that Prometheus reads
    otlp: str | None = None  # URL of an OpenTelemetry collector
    listen: str | None = None  # on the network as well, with CURVE
    lake: str | None = None  # where sealed segments are shipped: a folder, or s3://BUCKET/PREFIX
    lake_keys: Path | None = None  # file with its credentials, mode 0600
    ship: Literal["raw", "1s"] = "raw"  # all samples, or one a second
    ship_each: Literal["hour", "day"] = "hour"
    outbox_bytes: float | None = 10e9  # what waits for a lake that is away; then the oldest samples go
    file: Path | None = None  # where some of it was read

    @property
    def publish(self) -> str:
        """Where live samples and stages are published."""
        return self.endpoint + ".live"


@dataclass(frozen=True)
class _Said:
    """A setting, and who said it, for messages."""

    value: Any
    where: str


class _Settings:
    """What flags, environment and file say, in this order; each key as SETTINGS has it."""

    def __init__(self, flags: dict[str, Any], file: Path | None) -> None:
        self._flags = flags
        self.file = file
        self._in_file = {} if file is None else _read(file)
        if (
            flags.get("store") is not None
        ):  # another store than the file's, so its places are not meant either
            for key in ("endpoint", "spool"):
                self._in_file.pop(key, None)

    def said(self, key: str) -> _Said | None:
        """The setting that holds; None: nobody has set it."""
        variable = SETTINGS[key]
        if self._flags.get(key) is not None:
            return _Said(self._flags[key], f"--{key.replace('_', '-')} {self._flags[key]}")
        if variable and os.environ.get(variable):
            return _Said(os.environ[variable], f"{variable}={os.environ[variable]}")
        if key in self._in_file:
            return _Said(self._in_file[key], f"{key} = {self._in_file[key]!r} in {self.file}")
        return None

    def text(self, key: str) -> str | None:
        """A setting that is text."""
        said = self.said(key)
        return None if said is None else str(said.value)

    def word(self, key: str, words: tuple[str, ...], default: str) -> str:
        """A setting that is one of few words."""
        said = self.said(key)
        if said is None:
            return default
        if said.value not in words:
            raise ConfigError(f"cannot read {said.where}\n  cure: {' or '.join(words)}")
        return str(said.value)

    def number(self, key: str, default: float) -> float:
        """A setting that is a number."""
        said = self.said(key)
        if said is None:
            return default
        try:
            found = float(said.value)
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise ConfigError(f"cannot read {said.where}: not a number")
        return found

    def amount(self, key: str, units: dict[str, int], default: float | None) -> float | None:
        """A number with its unit; None: without limit."""
        said = self.said(key)
        if said is None:
            return default
        if said.value == "never":
            return None
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", str(said.value))
        if found is None or found[2] not in units or not float(found[1]):
            example = ", ".join(f"20{unit}" for unit in units)
            raise ConfigError(f"cannot read {said.where}\n  cure: such as {example}, or never")
        return float(found[1]) * units[found[2]]


def resolve(*, file: Path | None = None, **flags: Any) -> Config:
    """The settings of a daemon: `flags` (keys of SETTINGS) over environment over file over defaults.

    With its own `--store` a daemon is private: socket and spool lie in it. `file`: that one; else the one
    that ENERGYD_CONFIG names; else the user's own, if there is one (`default_file`). Raises ConfigError.
    """
    said = _Settings(flags, file or default_file())
    private = flags.get("store") is not None
    folder = Path(said.text("store") or endpoints.default_store()).absolute()
    endpoint, spool = said.text("endpoint"), said.text("spool")
    if private:
        endpoint = endpoint or f"ipc://{folder / endpoints.SOCKET_NAME}"
        spool = spool or str(folder / "spool")
    config = Config(
        store=folder, endpoint=endpoint or endpoints.default_endpoint(),
        spool=Path(spool) if spool else endpoints.default_spool(),
        source=said.text("source") or Config.source, speed=said.number("speed", Config.speed),
        interval_s=said.number("interval", Config.interval_s),
        keep=Keep(
            raw_s=said.amount("keep_raw", _TIMES, Keep.raw_s),
            all_s=said.amount("keep", _TIMES, Keep.all_s),
            max_bytes=said.amount("max_size", _SIZES, Keep.max_bytes),
        ),
        metrics=said.text("metrics") or None, otlp=said.text("otlp") or None,
        listen=said.text("listen") or None, file=said.file,
        lake=said.text("lake") or None,
        lake_keys=Path(keys).absolute() if (keys := said.text("lake_keys")) else None,
        ship=cast(Literal["raw", "1s"], said.word("ship", ("raw", "1s"), Config.ship)),
        ship_each=cast(Literal["hour", "day"], said.word("ship_each", ("hour", "day"), Config.ship_each)),
        outbox_bytes=said.amount("outbox", _SIZES, Config.outbox_bytes),
    )  # fmt: skip
    _check(config)
    return config


def default_file() -> Path | None:
    """The file of ENERGYD_CONFIG, else the user's own; None where there is none."""
    named = os.environ.get(ENV_CONFIG)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    path = (Path(base) if base else Path.home() / ".config") / "energyd" / "energyd.toml"
    return path if path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    """The settings in a file. Raises ConfigError for what it cannot mean."""
    import tomllib  # Python 3.11, as DuckDB's own need

    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}\n  cure: --config FILE") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f'cannot read {path}: {error}\n  cure: lines such as keep = "400d"') from None
    for key, value in found.items():
        if key not in SETTINGS:
            near = difflib.get_close_matches(key, SETTINGS, 1)
            hint = f"{near[0]}?" if near else f"one of {', '.join(SETTINGS)}"
            raise ConfigError(f"unknown setting {key} in {path}\n  cure: {hint}")
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise ConfigError(f"{key} in {path} must be text or a number, not {value!r}")
    return found


def seconds(text: str) -> int:
    """Whole seconds of a duration such as 90s, 5m or 2h. Raises ConfigError."""
    found = re.fullmatch(r"(\d+) ?([smh])", text)
    if found is None:
        raise ConfigError(f"cannot read {text} as a time\n  cure: such as 90s, 5m or 2h")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3_600}[found[2]]


def _check(config: Config) -> None:
    path = endpoints.ipc_path(config.endpoint)
    if path is None:
        raise ConfigError(
            f"cannot listen on {config.endpoint}: only ipc:// takes markers\n"
            f"  cure: {endpoints.ENV_ENDPOINT}=ipc:///a/short/path.sock; on the network as well: --listen"
        )
    if config.listen is not None:
        found = re.fullmatch(r"tcp://(\[[0-9A-Fa-f:]+\]|[^:/\s]+):(\d+)", config.listen)
        if found is None or not 0 < int(found[2]) < 65_535:  # the next port is needed too
            raise ConfigError(
                f"cannot listen on {config.listen}\n  cure: such as --listen tcp://127.0.0.1:7411"
            )
    longest = len(os.fsencode(str(endpoints.ipc_path(config.publish))))
    if longest > endpoints.MAX_IPC_PATH:
        raise ConfigError(
            f"socket path is too long: {longest} bytes of {endpoints.MAX_IPC_PATH}: {config.publish}\n"
            f"  cure: a shorter --store, or {endpoints.ENV_ENDPOINT}=ipc:///run/user/…/energyd.sock"
        )
    raw_s, all_s = config.keep.raw_s, config.keep.all_s
    if all_s is not None and raw_s is not None and raw_s > all_s and raw_s != Keep.raw_s:
        raise ConfigError("--keep-raw must not be longer than --keep")
    if config.speed <= 0 or not config.interval_s > 0:
        raise ConfigError("--speed and --interval must be above 0")
    if config.speed != 1 and not config.source.startswith("replay:"):
        raise ConfigError("--speed goes with --source replay:DIR only")
