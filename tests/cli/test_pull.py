"""``ocid pull``: what is drawn from the log, what is said when the daemon is not there, and that a wait can end."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from rich.console import Console

from ocid.cli import pull
from ocid.cli.client import Client, LayerProgress
from ocid.cli.run import main
from ocid.cli.watch import Bars, Lines, Watch
from ocid.config import Loaded
from ocid.errors import NotFound, OcidError
from ocid.events import image, layer
from ocid.events.envelope import Envelope
from ocid.ids import Digest
from ocid.ports import Credentials
from tests.fakes.lives import BLOB, CHAIN, IMAGE, MANIFEST, PULL, REFERENCE, Life, write_begin


class FakeDaemon:
    """A client whose pull writes what a daemon would write, a little later."""

    def __init__(self, life: Life | None = None, fails: BaseException | None = None) -> None:
        self.life = life
        self.fails = fails
        self.asked: list[tuple[str, Credentials | None]] = []

    async def pull_image(self, reference: str, credentials: Credentials | None) -> str:
        self.asked.append((reference, credentials))
        await trio.sleep(0.05)
        if self.fails is not None:
            raise self.fails
        if self.life is not None:
            write_begin(self.life)
            await trio.sleep(0.05)
        return IMAGE

    async def progress(self, reference: str) -> Sequence[LayerProgress]:
        return [LayerProgress(BLOB, 950_000, 1_900_000)]


class FakeDeps:
    """Connects to *daemon*, or fails to."""

    def __init__(self, daemon: FakeDaemon, unreachable: Exception | None = None) -> None:
        self.daemon = daemon
        self.unreachable = unreachable

    def serve(self, loaded: Loaded) -> int:
        raise AssertionError

    def make_successor(self, loaded: Loaded) -> None:
        raise AssertionError

    def connect(self, loaded: Loaded) -> AbstractAsyncContextManager[Client]:
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Client]:
        if self.unreachable is not None:
            raise self.unreachable
        yield self.daemon


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    (tmp_path / "ocid.toml").write_text("")

    def run_it(deps: FakeDeps, *arguments: str) -> tuple[int, str, str]:
        common = ["--config", str(tmp_path / "ocid.toml"), "--root", str(tmp_path / "root"), "--run", str(tmp_path)]
        return main(deps, ["pull", *arguments, *common]), *capsys.readouterr()

    return run_it


@pytest.fixture
def life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Life:
    """A log that this process writes, and that the command reads through the same environment: LMDB allows only one."""
    life = Life(tmp_path / "root" / "log")

    class Opened:
        def __enter__(self) -> object:
            return life.store

        def __exit__(self, *exc: object) -> None:
            pass

    monkeypatch.setattr(pull, "reading", lambda loaded: Opened())
    monkeypatch.setattr(pull, "TICK_S", 0.01)
    return life


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_pull_without_a_terminal_prints_lines(run: Run, life: Life) -> None:
    daemon = FakeDaemon(life)
    code, out, err = run(FakeDeps(daemon), "busybox:1.36")
    life.store.close()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{REFERENCE}: 1 layers from https://registry-1.docker.io"
    assert "333333333333: ready, 1.8 MiB" in lines
    assert lines[-1].startswith(f"{REFERENCE}: {IMAGE} (")
    assert daemon.asked == [(REFERENCE, None)]


def test_quiet_and_json_print_the_result_only(run: Run) -> None:
    assert run(FakeDeps(FakeDaemon()), "-q", "busybox")[1] == f"{IMAGE}\n"
    answer = json.loads(run(FakeDeps(FakeDaemon()), "-o", "json", "busybox")[1])
    assert (answer["reference"], answer["image_id"]) == ("docker.io/library/busybox:latest", IMAGE)


def test_a_log_that_cannot_be_read_only_costs_the_picture(run: Run) -> None:
    code, out, err = run(FakeDeps(FakeDaemon()), "busybox")
    assert code == 0
    assert IMAGE in out
    assert err.startswith("ocid: no progress to show: there is no log")


def test_a_password_comes_from_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = FakeDaemon()
    monkeypatch.setattr("sys.stdin", io.StringIO("hunter2\n"))
    assert run(FakeDeps(daemon), "-q", "busybox", "--username", "me", "--password-stdin")[0] == 0
    assert daemon.asked[0][1] == Credentials(username="me", password="hunter2")


@pytest.mark.parametrize("arguments", [("--username", "me"), ("--password-stdin",)])
def test_half_of_a_login_is_refused(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run(FakeDeps(FakeDaemon()), "busybox", *arguments)
    assert code == 1
    assert "needs" in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            FileNotFoundError(2, "No such file or directory"),
            "directory): start it with 'systemctl start ocid'",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "(Connection refused): start it with"),
        (PermissionError(13, "Permission denied"), "run this as root"),
        (ExceptionGroup("loop", [ExceptionGroup("inner", [FileNotFoundError(2, "gone")])]), "(gone): start it with"),
    ],
)
def test_an_unreachable_daemon_is_named_with_what_to_do(run: Run, tmp_path: Path, error: Exception, said: str) -> None:
    code, out, err = run(FakeDeps(FakeDaemon(), unreachable=error), "busybox")
    assert (code, out) == (1, "")
    assert str(tmp_path / "ocid.sock") in err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("fails", [NotFound("image", REFERENCE), ConnectionResetError(104, "reset")])
def test_a_refusal_is_one_line(run: Run, fails: BaseException) -> None:
    code, _, err = run(FakeDeps(FakeDaemon(fails=fails)), "-q", "busybox")
    assert code == 1
    assert err.startswith("ocid: ")
    assert err.count("\n") == 1


def test_a_malformed_reference_never_reaches_the_daemon(run: Run) -> None:
    daemon = FakeDaemon()
    assert run(FakeDeps(daemon), "UPPER case")[0] == 1
    assert daemon.asked == []


def test_an_interruption_ends_the_wait(run: Run) -> None:
    assert run(FakeDeps(FakeDaemon(fails=KeyboardInterrupt())), "-q", "busybox")[0] == 130


def test_a_bug_is_not_hidden_among_refusals() -> None:
    group = BaseExceptionGroup("", [NotFound("image", "x"), BaseExceptionGroup("", [ZeroDivisionError()])])
    assert isinstance(pull._first(group), BaseExceptionGroup)
    refusals: BaseExceptionGroup[OcidError] = BaseExceptionGroup("", [NotFound("image", "x")])
    assert isinstance(pull._first(refusals), NotFound)


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> list[Envelope]:
    life = Life(tmp_path / "log")
    write_begin(life)
    life.store.close()
    return life.envelopes


def watched(log: list[Envelope], up_to: type) -> Watch:
    watch = Watch(REFERENCE, from_seq=1)
    for envelope in log:
        watch.apply(envelope)
        if isinstance(envelope.event, up_to):
            break
    return watch


def test_a_watch_follows_one_reference(log: list[Envelope]) -> None:
    watch = watched(log, image.PullCompleted)
    assert (watch.pull_id, watch.ended, watch.next_seq) == (PULL, "completed", 11)
    assert {chain: view.state for chain, view in watch.layers.items()} == {CHAIN: "ready"}
    other = Watch("docker.io/library/other:latest", from_seq=1)
    for envelope in log:
        other.apply(envelope)
    assert (other.pull_id, other.layers) == ("", {})


def test_bytes_from_the_daemon_move_a_layer_on(log: list[Envelope]) -> None:
    watch = watched(log, layer.Wanted)
    view = watch.layers[CHAIN]
    assert view.state == "waiting"
    watch.note([LayerProgress(BLOB, 10, 1_900_000), LayerProgress(MANIFEST, 1, 1)])
    assert (view.state, view.done_bytes) == ("downloading", 10)
    watch.note([LayerProgress(BLOB, 9_999_999, 1_900_000)])
    assert (view.state, view.done_bytes) == ("unpacking", 1_900_000)
    watch.note([])
    assert view.done_bytes == 1_900_000


def test_a_new_pull_of_the_reference_begins_anew(log: list[Envelope]) -> None:
    watch = watched(log, image.PullCompleted)
    again = image.PullRequested(pull_id="f2" * 16, reference=REFERENCE, with_credentials=True)
    watch.apply(msgspec.structs.replace(log[3], event=again))
    assert (watch.pull_id, watch.layers, watch.ended) == ("f2" * 16, {}, "")


def test_lines_are_said_once(log: list[Envelope]) -> None:
    said: list[str] = []
    lines = Lines(said.append)
    watch = watched(log, layer.Ready)
    lines.draw(watch)
    lines.draw(watch)
    assert said == [f"{REFERENCE}: 1 layers from https://registry-1.docker.io", "333333333333: ready, 1.8 MiB"]


def test_bars_show_each_layer(log: list[Envelope]) -> None:
    out = io.StringIO()
    watch = watched(log, layer.Wanted)
    watch.note([LayerProgress(Digest(BLOB), 950_000, 1_900_000)])
    with Bars(Console(file=out, force_terminal=True, width=120, color_system=None)) as bars:
        bars.draw(watch)
    assert "333333333333" in out.getvalue()
    assert "downloading" in out.getvalue()
