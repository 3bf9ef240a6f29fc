"""How does a test get several machines? Network namespaces with an address each, on one bridge."""

from __future__ import annotations

import os
import subprocess

import pytest


class Network:
    """A hub and some nodes, 10.77.0.1, .2 … and the hub at .254; each a namespace of its own."""

    def __init__(self, nodes: int) -> None:
        tag = f"eq{os.getpid() % 10_000}"
        self.hub = f"{tag}h"
        self.nodes = [f"{tag}n{k}" for k in range(1, nodes + 1)]
        self.hub_address = "10.77.0.254"

    def up(self) -> None:
        """Make it; skips the test where that is not allowed."""
        try:
            for name in (self.hub, *self.nodes):
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
            _ip("-n", self.hub, "addr", "add", f"{self.hub_address}/24", "dev", "br0")
            _ip("-n", self.hub, "link", "set", "br0", "up")
            for k, node in enumerate(self.nodes, 1):
                _ip(
                    "-n",
                    self.hub,
                    "link",
                    "add",
                    f"v{k}",
                    "type",
                    "veth",
                    "peer",
                    "name",
                    "eth0",
                    "netns",
                    node,
                )
                _ip("-n", self.hub, "link", "set", f"v{k}", "master", "br0", "up")
                _ip("-n", node, "addr", "add", f"10.77.0.{k}/24", "dev", "eth0")
                _ip("-n", node, "link", "set", "eth0", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.down()
            pytest.skip(f"no network namespaces here: {error}")

    def down(self) -> None:
        """Take it away."""
        for name in (self.hub, *self.nodes):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def inside(self, name: str) -> list[str]:
        """What to put before a command, so that it runs there (same pid)."""
        return ["ip", "netns", "exec", name]

    def cut(self, node: int) -> None:
        """Pull the cable of a node (1 …)."""
        _ip("-n", self.hub, "link", "set", f"v{node}", "down")

    def mend(self, node: int) -> None:
        """Plug it in again."""
        _ip("-n", self.hub, "link", "set", f"v{node}", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
