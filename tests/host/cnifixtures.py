"""CNI configurations, fake plugins and the directories of a node, for tests in a node of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ocid.adapters.network import Networks
from tests.host.netfixtures import Node
from tests.host.nodes import SLOW

PLUGINS = next((place for place in map(Path, ("/usr/lib/cni", "/opt/cni/bin")) if (place / "bridge").exists()), Path())

FAKE = """#!/bin/sh
# Notes its call, then does what the file {name}.<command> says, or what a plugin without a task does.
config=$(cat)
printf '%s %s netns=[%s] %s\\n' "$CNI_COMMAND" {name} "$CNI_NETNS" "$CNI_ARGS" >> {directory}/calls
printf '%s\\n' "$config" > {directory}/{name}.$CNI_COMMAND.stdin
if [ -e {directory}/{name}.$CNI_COMMAND ]; then . {directory}/{name}.$CNI_COMMAND; fi
if [ $CNI_COMMAND = ADD ]; then
  echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.9.0.7/16"}}],"dns":{{}},"by":"{name}"}}'
fi
"""


class Fixture:
    """Configuration, plugin and state directories of a node, and the network over them."""

    def __init__(self, node: Node, **changes: Any) -> None:
        self.node = node
        self.conf, self.bin = node.directory / "net.d", node.directory / "bin"
        self.state, self.ipam = node.directory / "state", node.directory / "ipam"
        self.conf.mkdir(exist_ok=True)
        self.bin.mkdir(exist_ok=True)
        self.changes = changes
        self.network = self.daemon()

    def daemon(self) -> Networks:
        """Return the network as a daemon that has just started has it."""
        settings: dict[str, Any] = {
            "cni_conf_dir": self.conf,
            "cni_bin_dirs": (self.bin, PLUGINS),
            "cni_state_dir": self.state,
            "bridge": "ocidt0",
            "subnets": ("10.222.0.0/16",),
            "plugin_timeout_s": 5.0 * SLOW,
        }
        return Networks(**{**settings, **self.changes})

    def configure(
        self, *plugins: dict[str, Any], name: str = "10-test.conflist", version: str = "1.0.0", **more: Any
    ) -> Networks:
        document = {"cniVersion": version, "name": "testnet", "plugins": plugins, **more}
        (self.conf / name).write_text(json.dumps(document))
        return self.daemon()

    def real(self, *more: dict[str, Any], version: str = "1.0.0") -> Networks:
        ranges = [[{"subnet": "10.77.0.0/16"}], [{"subnet": "fd00:77::/64"}]]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        ipam = {"type": "host-local", "dataDir": str(self.ipam), "ranges": ranges, "routes": routes}
        bridge = {"type": "bridge", "bridge": "ocidc0", "isGateway": True, "ipMasq": True, "hairpinMode": True}
        return self.configure({**bridge, "ipam": ipam}, *more, {"type": "loopback"}, version=version)

    def fakes(self, *names: str, **settings: Any) -> Networks:
        for name in names:
            path = self.bin / name
            path.write_text(FAKE.format(name=name, directory=self.bin))
            path.chmod(0o755)
        return self.configure(*({"type": name} for name in names), **settings)

    def task(self, name: str, command: str, script: str) -> None:
        (self.bin / f"{name}.{command}").write_text(script)

    def calls(self) -> list[str]:
        """Return "<command> <plugin>" of each call since the last time."""
        path = self.bin / "calls"
        text = path.read_text() if path.exists() else ""
        path.write_text("")
        return [" ".join(line.split()[:2]) for line in text.splitlines()]

    def leases(self) -> set[str]:
        """Return the addresses that host-local holds."""
        found = self.ipam.rglob("*")
        return {path.name for path in found if path.is_file() and path.name.startswith(("10.", "fd"))}

    def remembered(self) -> set[str]:
        return {path.name for path in self.state.iterdir()} if self.state.exists() else set()
