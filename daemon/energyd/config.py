"""With which settings does this daemon run? Flags over environment over defaults, checked once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from energyd_client import endpoints


class ConfigError(Exception):
    """Settings that cannot be: what, where, cure in the text."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a daemon is told."""

    store: Path
    endpoint: str
    spool: Path
    source: str = "auto"
    speed: float = 1.0
    interval_s: float = 0.5

    @property
    def publish(self) -> str:
        """Where live samples and stages are published."""
        return self.endpoint + ".live"


def resolve(
    *, store: Path | None, endpoint: str | None = None, source: str = "auto", speed: float = 1.0,
    interval_s: float = 0.5,
) -> Config:  # fmt: skip
    """The settings of a daemon. With its own `--store` a daemon is private: socket and spool lie in it.

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
    )  # fmt: skip
    _check(config)
    return config


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
    if config.speed <= 0 or not config.interval_s > 0:
        raise ConfigError("--speed and --interval must be above 0")
    if config.speed != 1 and not config.source.startswith("replay:"):
        raise ConfigError("--speed goes with --source replay:DIR only")
