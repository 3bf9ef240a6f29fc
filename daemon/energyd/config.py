"""With which settings does this daemon run? Flags over environment over defaults, checked once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from energyd_client import endpoints

ENV_KEEP_RAW: Final = "ENERGYD_KEEP_RAW"
ENV_KEEP: Final = "ENERGYD_KEEP"
ENV_MAX_SIZE: Final = "ENERGYD_MAX_SIZE"
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

    @property
    def publish(self) -> str:
        """Where live samples and stages are published."""
        return self.endpoint + ".live"


def resolve(
    *, store: Path | None, endpoint: str | None = None, source: str = "auto", speed: float = 1.0,
    interval_s: float = 0.5, keep_raw: str | None = None, keep: str | None = None,
    max_size: str | None = None,
) -> Config:  # fmt: skip
    """The settings of a daemon. With its own `--store` a daemon is private: socket and spool lie in it.

    `keep_raw`, `keep` ("7d", "36h") and `max_size` ("50GB") may be "never", that is without limit; None: as
    the environment says, or the defaults of Keep.

    Raises ConfigError.
    """
    folder = (store or endpoints.default_store()).absolute()
    endpoint = endpoint or os.environ.get(endpoints.ENV_ENDPOINT)
    spool = os.environ.get(endpoints.ENV_SPOOL)
    if store is not None:
        endpoint = endpoint or f"ipc://{folder / endpoints.SOCKET_NAME}"
        spool = spool or str(folder / "spool")
    config = Config(
        store=folder, endpoint=endpoint or endpoints.default_endpoint(),
        spool=Path(spool) if spool else endpoints.default_spool(),
        source=source, speed=speed, interval_s=interval_s,
        keep=Keep(
            raw_s=_amount("--keep-raw", keep_raw, ENV_KEEP_RAW, _TIMES, Keep.raw_s),
            all_s=_amount("--keep", keep, ENV_KEEP, _TIMES, Keep.all_s),
            max_bytes=_amount("--max-size", max_size, ENV_MAX_SIZE, _SIZES, Keep.max_bytes),
        ),
    )  # fmt: skip
    _check(config)
    return config


def seconds(text: str) -> int:
    """Whole seconds of a duration such as 90s, 5m or 2h. Raises ConfigError."""
    found = re.fullmatch(r"(\d+) ?([smh])", text)
    if found is None:
        raise ConfigError(f"cannot read {text} as a time\n  cure: such as 90s, 5m or 2h")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3_600}[found[2]]


def _amount(
    flag: str, given: str | None, variable: str, units: dict[str, int], default: float | None
) -> float | None:
    """A number with its unit, of the flag, the variable or the default; None: without limit."""
    text = given or os.environ.get(variable)
    if not text:
        return default
    if text == "never":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", text)
    if found is None or found[2] not in units or not float(found[1]):
        example = ", ".join(f"20{unit}" for unit in units)
        raise ConfigError(
            f"cannot read {flag} {text} ({variable} says it too)\n  cure: such as {example}, or never"
        )
    return float(found[1]) * units[found[2]]


def _check(config: Config) -> None:
    path = endpoints.ipc_path(config.endpoint)
    if path is None:
        raise ConfigError(
            f"cannot listen on {config.endpoint}: only ipc:// is served\n"
            f"  cure: {endpoints.ENV_ENDPOINT}=ipc:///a/short/path.sock"
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
