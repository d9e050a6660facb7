"""``ocid pull``: have the daemon pull an image, and draw how far it has come from the log's own events."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

import trio

from ocid import tables
from ocid.cli.client import Client, Deps
from ocid.cli.log import reading
from ocid.cli.watch import Bars, Lines, Picture, Watch
from ocid.config import Loaded
from ocid.domain import reference
from ocid.errors import InvalidRequest, OcidError, Unavailable
from ocid.events.codec import Damaged
from ocid.journal.looking import envelopes
from ocid.journal.reader import Reader
from ocid.ports import Credentials
from ocid.projections.text import clean

TICK_S: Final = 0.2  # between two looks at the log and at the progress
PROGRESS_S_MAX: Final = 2.0  # what a slow answer to the question for progress may take
LOOK_BACK: Final = 5000  # records before now in which a pull that we join is looked for
PASSWORD_CHARS_MAX: Final = 1 << 16


def run(args: argparse.Namespace, loaded: Loaded, deps: Deps) -> int:
    """Pull one image and print its id."""
    name = str(reference.parse(args.reference))
    credentials = _credentials(args.username, args.password_stdin)
    silent = args.quiet or args.output == "json"
    began = time.monotonic()
    try:
        image_id = trio.run(_pull, name, credentials, loaded, deps, silent)
    except BaseExceptionGroup as group:
        raise _first(group) from None
    took_s = time.monotonic() - began
    if args.output == "json":
        tables.json({"reference": name, "image_id": image_id, "took_s": round(took_s, 3)})
    else:
        tables.line(image_id if args.quiet else f"{name}: {image_id} ({took_s:.1f} s)")
    return 0


async def _pull(name: str, credentials: Credentials | None, loaded: Loaded, deps: Deps, silent: bool) -> str:
    socket = loaded.config.socket
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(deps.connect(loaded))
        except (OSError, ExceptionGroup) as error:  # the loop that the connection lives in wraps what is raised in it
            cause = _leaf(error)
            if isinstance(cause, OSError):
                raise _unreachable(socket, cause) from cause
            raise
        nursery = await stack.enter_async_context(trio.open_nursery())
        if not silent:
            nursery.start_soon(_draw, name, loaded, client)
        try:
            image_id = await client.pull_image(name, credentials)
        except OSError as error:
            raise _unreachable(socket, error) from error
        nursery.cancel_scope.cancel()
    return image_id


def _unreachable(socket: str, error: OSError) -> Unavailable:
    """Put into words what the operating system says of an absent daemon."""
    if isinstance(error, PermissionError):
        return Unavailable(f"this user may not use {socket!r}: run this as root")
    return Unavailable(
        f"no daemon answers at {socket!r} ({error.strerror or error}): start it with 'systemctl start ocid' or "
        "'ocid serve', or name its socket with --socket"
    )


async def _draw(name: str, loaded: Loaded, client: Client) -> None:
    """Draw until cancelled, and once more then. A log that cannot be read only costs the picture."""
    try:
        with reading(loaded) as reader, _picture() as picture:
            watch = Watch(name, from_seq=max(reader.last_seq() - LOOK_BACK, 1))
            _look(reader, watch)
            if watch.ended:
                watch.forget()  # that was an earlier pull
            try:
                while True:
                    _look(reader, watch)
                    with trio.move_on_after(PROGRESS_S_MAX):
                        watch.note(await client.progress(name))
                    picture.draw(watch)
                    await trio.sleep(TICK_S)
            finally:
                _look(reader, watch)
                picture.draw(watch)
    except (OcidError, Damaged) as error:
        message = error.message if isinstance(error, OcidError) else str(error)
        sys.stderr.write(f"ocid: no progress to show: {clean(message)}\n")


def _look(reader: Reader, watch: Watch) -> None:
    for envelope in envelopes(reader, watch.next_seq):
        watch.apply(envelope)


@contextmanager
def _picture() -> Iterator[Picture]:
    if sys.stdout.isatty():
        with Bars(tables.console()) as bars:
            yield bars
    else:
        yield Lines(tables.line)


def _credentials(username: str | None, password_stdin: bool) -> Credentials | None:
    if username is None:
        if password_stdin:
            raise InvalidRequest("--password-stdin needs --username")
        return None
    if not password_stdin:
        raise InvalidRequest(
            "--username needs --password-stdin: a password on the command line is there for all to see"
        )
    password = sys.stdin.read(PASSWORD_CHARS_MAX).rstrip("\r\n")
    return Credentials(username=username, password=password)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what is to be reported of several failures at once: a bug, an interruption, or the first refusal."""
    _, unforeseen = group.split((OcidError, KeyboardInterrupt, BrokenPipeError))
    if unforeseen is not None:
        return unforeseen
    for kind in (KeyboardInterrupt, OcidError, BrokenPipeError):
        if (some := group.subgroup(kind)) is not None:
            return _leaf(some)
    return group


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
