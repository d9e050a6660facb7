"""The grammar of ``ocid spec``. The options have the names that users of OCI tools and of podman know."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, Final

from ocid.domain.spec.validate_process import HOOKS

AddCommand = Callable[..., argparse.ArgumentParser]

_UPPER: Final = re.compile(r"(?=[A-Z])")


def add_commands(spec: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Add ``generate`` and ``validate`` below ``ocid spec``; ``args.spec_command`` names the one that is asked for."""
    commands = spec.add_subparsers(dest="spec_command", metavar="COMMAND", required=True)

    def command(name: str, what: str, **extra: Any) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what, parents=[common], allow_abbrev=False, **extra)

    generate = command("generate", "Make a config.json for an OCI runtime, with the code that the daemon uses.")
    _general(generate)
    _process(generate.add_argument_group("process"))
    _confinement(generate.add_argument_group("confinement"))
    _namespaces(generate.add_argument_group("namespaces: private, host, or ns:PATH to join one"))
    _filesystem(generate.add_argument_group("file systems and devices"))
    _resources(generate.add_argument_group("resources"))

    validate = command("validate", "Check a config.json against the OCI runtime specification.")
    validate.add_argument(
        "path", metavar="BUNDLE|FILE", help="a bundle directory, a config.json, or - for standard input"
    )
    validate.add_argument("--no-host", action="store_true", help="do not look for root file system and hooks")
    validate.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="lines for people, or JSON"
    )


def _general(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command_line", nargs="*", metavar="ARG", help="program and arguments, after --")
    parser.add_argument("--args", action="append", default=[], metavar="ARG", help="the same, one word each time")
    parser.add_argument("-o", "--output", default="", metavar="FILE", help="write to FILE instead of standard output")
    parser.add_argument(
        "--template", default="", metavar="FILE", help="change only what is asked for in this config.json"
    )
    parser.add_argument("--annotation", "--label", action="append", default=[], metavar="KEY=VALUE")
    for kind in HOOKS:
        names = dict.fromkeys((f"--hooks-{kind.lower()}", f"--hooks-{_UPPER.sub('-', kind).lower()}"))
        parser.add_argument(
            *names, action="append", default=[], dest=f"hooks_{kind}", metavar="PATH[:ARG...]", help=f"a {kind} hook"
        )


def _process(group: Any) -> None:
    group.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    group.add_argument("--env-file", action="append", default=[], metavar="FILE", help="NAME=VALUE lines")
    group.add_argument("-w", "--cwd", "--workdir", default="", metavar="DIR")
    group.add_argument(
        "-u", "--user", default="", metavar="USER[:GROUP]", help="names are those of the root file system"
    )
    group.add_argument("--uid", type=int, metavar="UID")
    group.add_argument("--gid", type=int, metavar="GID")
    group.add_argument("--groups", "--group-add", action="append", type=int, default=[], metavar="GID")
    group.add_argument("-t", "--tty", "--terminal", action="store_const", const=True)
    group.add_argument("--hostname", default="", metavar="NAME")
    group.add_argument("--oom-score-adj", type=int, metavar="N")
    group.add_argument(
        "--ulimit", "--rlimit", "--rlimits", action="append", default=[], metavar="TYPE=SOFT[:HARD]", dest="rlimits"
    )


def _confinement(group: Any) -> None:
    group.add_argument("--privileged", action="store_true", help="all capabilities and devices, nothing masked")
    group.add_argument("--cap-add", action="append", default=[], metavar="CAP")
    group.add_argument("--cap-drop", action="append", default=[], metavar="CAP")
    group.add_argument("--cap-add-ambient", action="append", default=[], metavar="CAP")
    group.add_argument("--no-new-privileges", action="store_const", const=True)
    group.add_argument("--seccomp", default="", metavar="default|unconfined|FILE")
    group.add_argument("--apparmor", metavar="PROFILE")
    group.add_argument("--selinux-label", metavar="LABEL")
    group.add_argument("--mount-label", metavar="LABEL")
    group.add_argument(
        "--security-opt",
        action="append",
        default=[],
        metavar="OPTION",
        help="seccomp=…, apparmor=…, label=…, no-new-privileges, mask=PATHS, unmask=ALL",
    )
    group.add_argument(
        "--masked-path", "--mask-paths", action="append", default=[], metavar="PATH", dest="masked_paths"
    )
    group.add_argument(
        "--readonly-path", "--readonly-paths", action="append", default=[], metavar="PATH", dest="readonly_paths"
    )
    group.add_argument("--unmask", action="store_true", help="neither masked nor read-only paths")
    group.add_argument("--sysctl", action="append", default=[], metavar="NAME=VALUE")


def _namespaces(group: Any) -> None:
    for names, kind in (
        (("--network", "--net"), "network"),
        (("--pid",), "pid"),
        (("--ipc",), "ipc"),
        (("--uts",), "uts"),
        (("--userns",), "user"),
        (("--cgroupns",), "cgroup"),
        (("--timens",), "time"),
    ):
        group.add_argument(*names, default="", dest=f"namespace_{kind}", metavar="MODE")
    group.add_argument("--linux-namespace-add", action="append", default=[], metavar="TYPE[:PATH]")
    group.add_argument("--linux-namespace-remove", action="append", default=[], metavar="TYPE")
    group.add_argument("--uidmap", action="append", default=[], metavar="CONTAINER:HOST:SIZE")
    group.add_argument("--gidmap", action="append", default=[], metavar="CONTAINER:HOST:SIZE")


def _filesystem(group: Any) -> None:
    group.add_argument("--rootfs", "--rootfs-path", default="", metavar="DIR", help="rootfs")
    group.add_argument("--read-only", "--rootfs-readonly", action="store_const", const=True, dest="readonly")
    group.add_argument("--rootfs-propagation", "--linux-rootfs-propagation", default="", metavar="MODE")
    group.add_argument("-v", "--volume", "--bind", action="append", default=[], metavar="SOURCE:DESTINATION[:OPTIONS]")
    group.add_argument("--mount", action="append", default=[], metavar="type=TYPE,source=…,destination=…[,OPTION...]")
    group.add_argument("--tmpfs", action="append", default=[], metavar="DESTINATION[:OPTIONS]")
    group.add_argument("--mounts-remove", action="append", default=[], metavar="DESTINATION")
    group.add_argument("--device", action="append", default=[], metavar="HOST[:CONTAINER[:rwm]]")


def _resources(group: Any) -> None:
    group.add_argument("-m", "--memory", default="", metavar="BYTES", help="with b, k, m or g; -1 for no limit")
    group.add_argument("--memory-swap", default="", metavar="BYTES", help="memory and swap together")
    group.add_argument("--cpus", default="", metavar="N", help="such as 1.5")
    group.add_argument("--cpu-shares", type=int, default=0, metavar="N")
    group.add_argument("--cpu-quota", type=int, default=0, metavar="US")
    group.add_argument("--cpu-period", type=int, default=0, metavar="US")
    group.add_argument("--cpuset-cpus", default="", metavar="LIST")
    group.add_argument("--cpuset-mems", default="", metavar="LIST")
    group.add_argument("--pids-limit", type=int, default=0, metavar="N")
    group.add_argument("--hugepage-limit", action="append", default=[], metavar="SIZE:BYTES", help="such as 2MB:64m")
    group.add_argument("--cgroup-conf", "--unified", action="append", default=[], metavar="FILE=VALUE", dest="unified")
    group.add_argument("--cgroups-path", "--cgroup-parent", default="", metavar="PATH")
