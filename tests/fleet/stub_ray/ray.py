"""What of Ray do our tasks see? Workers on nodes, with the node's environment and what runtime_env adds.

Ray itself is 200 MB. As with Ray, a worker is a process of its own on its node: it has the environment of
the node's raylet, nothing of the driver's but `runtime_env["env_vars"]`, and imports the task's module.
FAKE_RAY_NODES holds the environments of the nodes; tasks go to them in turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import cycle
from typing import Any

_nodes: Any = None
_given: dict[str, str] = {}


class _Task:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def remote(self, *args: Any) -> subprocess.Popen[str]:
        assert _nodes is not None, "ray.init() comes first"
        code = (
            "import importlib, json, sys; name, task, args = json.loads(sys.argv[1])\n"
            "print(json.dumps(getattr(importlib.import_module(name), task).function(*args)))\n"
        )
        call = json.dumps([self.function.__module__, self.function.__name__, args])
        env = {**next(_nodes), **_given}
        return subprocess.Popen(
            [sys.executable, "-c", code, call], env=env, stdout=subprocess.PIPE, text=True
        )


def remote(function: Callable[..., Any]) -> _Task:
    return _Task(function)


def init(*, runtime_env: dict[str, Any], **_: Any) -> None:
    global _nodes  # noqa: PLW0603
    _nodes = cycle(json.loads(os.environ["FAKE_RAY_NODES"]))
    _given.update(runtime_env["env_vars"])


def get(tasks: list[subprocess.Popen[str]]) -> list[Any]:
    said = [task.communicate(timeout=60)[0] for task in tasks]
    assert all(task.returncode == 0 for task in tasks)
    return [json.loads(text) for text in said]


def shutdown() -> None:
    _given.clear()
