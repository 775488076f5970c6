"""The network of a scenario: one Ethernet, on which each node has eth1, as the nodes of a NixOS test have."""

from __future__ import annotations

import subprocess


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Network:
    """192.168.1.0/24; addresses are given in the order of the nodes' names, from .1 on."""

    BRIDGE = "nodes"

    def __init__(self, names: list[str]) -> None:
        self.addresses = {name: f"192.168.1.{i}" for i, name in enumerate(names, 1)}
        ip("link", "add", self.BRIDGE, "type", "bridge")
        ip("link", "set", self.BRIDGE, "up")
        for name, address in self.addresses.items():
            cable = self.cable(name)
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth1", "netns", name)
            ip("link", "set", cable, "master", self.BRIDGE, "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth1")
            ip("-n", name, "link", "set", "eth1", "up")

    def cable(self, name: str) -> str:
        return "to" + self.addresses[name].rpartition(".")[2]

    def plug(self, name: str, plugged: bool) -> None:
        ip("link", "set", self.cable(name), "up" if plugged else "down")

    def hosts(self) -> str:
        """/etc/hosts of every node."""
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        return "\n".join(lines + [f"{address} {name}" for name, address in self.addresses.items()]) + "\n"
