"""The grammar of ``ocid-replay``."""

from __future__ import annotations

import argparse
from typing import Final, NoReturn

from . import arguments_answers, arguments_evidence, arguments_export

USAGE: Final = 64  # EX_USAGE of sysexits.h: 2 means "damaged" here, and a typing error must not look like that


class Parser(argparse.ArgumentParser):
    """Exits with ``USAGE`` instead of 2."""

    def error(self, message: str) -> NoReturn:
        """Say how it should have been."""
        self.print_usage()
        self.exit(USAGE, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; ``args.command`` names the command."""
    parser = Parser(
        "ocid-replay",
        description="Read ocid's event log, of a running daemon, a copy, or an archive. Nothing is written to it but "
        "LMDB's table of readers.",
        epilog="exit codes: 0 success, 1 failure, 2 the log is damaged, 3 it is not the log that was signed for, or "
        "that a witness saw, 4 there is no log or nothing in it, 5 its format is not supported, 6 nobody ever signed "
        "for it, 7 the cursor of an export does not fit the log, 8 another export uses it, 9 it does not fold to the "
        "same state every time, 64 usage",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        made.add_argument("--log", metavar="DIR", help="directory of the log; ROOT/log of the configuration by default")
        made.add_argument("--config", metavar="FILE", help="configuration that says where ROOT is")
        return made

    timeline = command("timeline", "Show what happened, record by record, in order.")
    _filters(timeline)
    timeline.add_argument("-f", "--follow", action="store_true", help="go on with records as they are written")
    arguments_answers.output(timeline)

    state = command("state", "Show the node as it was after a record, or at a time; now by default.")
    moment = state.add_mutually_exclusive_group()
    moment.add_argument("--seq", type=_seq, default=0, metavar="SEQ", help="after this record")
    moment.add_argument("--time", default="", metavar="TIME", help="RFC 3339, or so long ago: 90s, 15m, 2h, 3d")
    _output(state, "JSON")

    explain = command("explain", "Tell a pod's or container's story, also of a removed one.")
    explain.add_argument("id", metavar="ID", help="id, beginning of it, or name")
    _output(explain, "JSON")

    arguments_answers.add(command, _filters)

    verify = command("verify", "Check pages, hashes, chain, streams, documents, and who signed for them.")
    _trust(verify)
    arguments_evidence.witness(verify)
    _output(verify, "JSON")

    prove = command("prove", "Write a proof that a record is in the log that was signed for, as JSON.")
    prove.add_argument("seq", type=_seq, metavar="SEQ", help="the record")
    _trust(prove)

    arguments_evidence.add(command, _filters, _trust, lambda parser: _output(parser, "JSON"))

    export = command("export", "Write records for other programs, as JSON.")
    _filters(export)
    arguments_export.options(export)
    return parser


def _trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key", default="", metavar="KEY", help="the key that must have signed, or a file with it; see 'ocid key'"
    )


def _filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters")
    group.add_argument("--pod", default="", metavar="POD", help="id, beginning of it, name, or namespace/name")
    group.add_argument("--container", default="", metavar="CONTAINER", help="id, beginning of it, or name")
    group.add_argument("--stream", default="", metavar="STREAM", help="such as 'node', 'pod/3f2c', or a glob")
    group.add_argument("--type", action="append", default=[], metavar="GLOB", help="such as 'exec.*'; may be repeated")
    group.add_argument("--since", default="", metavar="TIME", help="RFC 3339, or so long ago: 90s, 15m, 2h, 3d")
    group.add_argument("--until", default="", metavar="TIME", help="likewise, exclusive")
    group.add_argument("--from-seq", type=_seq, default=1, metavar="SEQ", help="first record")
    group.add_argument("--to-seq", type=_seq, default=0, metavar="SEQ", help="last record")
    group.add_argument("--image", default="", metavar="IMAGE", help="id, beginning of it, or registry/path:tag in full")
    group.add_argument(
        "--who",
        default="",
        metavar="CLIENT",
        help="socket client that asked: pid, name or path of its program, uid:N or login:N; 0 is the daemon itself",
    )


def _output(parser: argparse.ArgumentParser, json: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help=f"table for people, or {json}"
    )


def _seq(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 1 << 63:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no seq: wanted a whole number from 1")
    return int(text)
