"""The grammar of the command line."""

from __future__ import annotations

import argparse
from typing import Final

import ocid
from ocid.cli import spec_parser
from ocid.domain.changes import BYTES_MAX

TITLE: Final = "A container runtime daemon for Kubernetes nodes that remembers everything."


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``ocid``; ``args.command`` names the command."""
    common = _common()
    parser = argparse.ArgumentParser("ocid", description=TITLE, parents=[common], allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"ocid {ocid.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=what, parents=[common], allow_abbrev=False)

    command("serve", "Run the daemon.")

    ps = command("ps", "List pods and containers, from the log; the daemon need not run.")
    ps.add_argument("-a", "--all", action="store_true", help="also what has ended")
    _output(ps)

    images = command("images", "List images, from the log; the daemon need not run.")
    _output(images)

    pull = command("pull", "Have the daemon pull an image, and watch it.")
    pull.add_argument("reference", metavar="IMAGE", help="for instance docker.io/library/busybox:1.36")
    pull.add_argument("--username", metavar="NAME", help="log in to the registry as NAME")
    pull.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    pull.add_argument("-q", "--quiet", action="store_true", help="print the image id only")
    _output(pull)

    _events(command("events", "Show the log's events, and go on as they happen with --follow."))

    _drift(command("drift", "Say where the host differs from the log, or what a CONTAINER changed of its image."))

    config = command("config", "Show the configuration in force, and where each value came from.")
    _output(config)

    key = command("key", "Show the key that signs for the log, for 'ocid-replay verify --key'.")
    key.add_argument("--rotate", action="store_true", help="make another one, which the old one will vouch for")
    _output(key)

    erase = command("erase", "Erase what the log keeps of a removed pod's configurations and commands.")
    erase.add_argument("--pod", required=True, metavar="ID", help="its id, or the beginning of it")
    erase.add_argument("--reason", required=True, metavar="TEXT", help="kept in the log, for whoever asks later")
    _output(erase)

    spec_parser.add_commands(command("spec", "Make or check config.json files for OCI runtimes."), common)
    return parser


def _events(events: argparse.ArgumentParser) -> None:
    events.add_argument("-f", "--follow", action="store_true", help="go on with events as they happen")
    events.add_argument("--pod", default="", metavar="POD", help="id, beginning of it, name, or namespace/name")
    events.add_argument("--container", default="", metavar="CONTAINER", help="id, beginning of it, or name")
    events.add_argument(
        "--type", action="append", default=[], metavar="GLOB", help="such as 'container.*'; may be repeated"
    )
    events.add_argument("--since", default="", metavar="TIME", help="RFC 3339, or so long ago: 90s, 15m, 2h, 3d")
    events.add_argument("--until", default="", metavar="TIME", help="likewise")
    _output(events, "one JSON object a line")


def _drift(drift: argparse.ArgumentParser) -> None:
    drift.epilog = "Exit codes: 0 no difference, 1 failure, 2 usage, 8 differences. Changes nothing; needs root."
    drift.add_argument(
        "container", nargs="?", default="", metavar="CONTAINER", help="id, beginning of it, or name; running or ended"
    )
    drift.add_argument("--all", action="store_true", help="also mount points that the OCI runtime made in a CONTAINER")
    drift.add_argument(
        "--max-bytes", type=int, default=BYTES_MAX, metavar="N", help="read so much of a CONTAINER's files for hashes"
    )
    drift.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "jsonl"),
        default="table",
        help="table for people, JSON, or a line each",
    )


def _common() -> argparse.ArgumentParser:
    """Options of every command, understood before its name and after it."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = common.add_argument_group("configuration")
    group.add_argument("--config", metavar="FILE", help="instead of /etc/ocid/ocid.toml; must exist")
    group.add_argument("--root", metavar="DIR", help="what outlives a reboot: log, images, writable layers")
    group.add_argument("--run", metavar="DIR", help="what does not: bundles, namespaces, sockets")
    group.add_argument("--socket", metavar="PATH", help="the CRI socket; RUN/ocid.sock where only --run is given")
    return common


def _output(parser: argparse.ArgumentParser, json: str = "JSON") -> None:
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help=f"table for people, or {json}"
    )
