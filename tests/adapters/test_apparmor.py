"""Loading the default AppArmor profile, with a kernel of plain files and a parser that writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ocid.adapters import apparmor
from ocid.adapters.apparmor import AppArmor
from ocid.domain.apparmor import PROFILE, Gap
from ocid.errors import EffectFailed
from ocid.ports.confinement import Confined

# Appends its arguments to "calls", keeps its input, and does to the kernel what the word in "parser" says.
_PARSER = """#!/bin/sh
cd {directory} || exit 9
echo "$@" >>calls
cat >text
case $(cat parser) in
refuse) echo "syntax error, line 7" >&2; exit 1 ;;
nothing) echo "cannot be" >&2; exit 0 ;;
esac
grep -q '^ocid-default ' kernel/profiles || echo 'ocid-default (enforce)' >>kernel/profiles
mkdir -p kernel/policy/profiles/ocid-default.7
echo ocid-default >kernel/policy/profiles/ocid-default.7/name
sha256sum text | cut -d ' ' -f 1 >kernel/policy/profiles/ocid-default.7/sha256
"""


class Machine:
    """A node with AppArmor."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.program = directory / "apparmor_parser"
        self.program.write_text(_PARSER.format(directory=directory))
        self.program.chmod(0o755)
        self.does("load")
        self.profiles = directory / "kernel/profiles"
        self.hash = directory / "kernel/policy/profiles/ocid-default.7/sha256"
        (directory / "kernel/policy/profiles/other.1").mkdir(parents=True)
        (directory / "policy/abi").mkdir(parents=True)
        (directory / "run").mkdir()
        self.profiles.write_text("other (enforce)\n")

    def does(self, word: str) -> None:
        (self.directory / "parser").write_text(word)

    def calls(self) -> list[str]:
        found = self.directory / "calls"
        return found.read_text().splitlines() if found.exists() else []

    def find(self, name: str) -> str:
        assert name == "apparmor_parser"
        if not self.program.exists():
            raise EffectFailed("'apparmor_parser' is not installed")
        return str(self.program)

    def life(self, default: str = PROFILE, *, enabled: bool = True) -> AppArmor:
        """A daemon's life."""
        return AppArmor(
            self.directory / "run",
            default,
            enabled=enabled,
            securityfs=str(self.directory / "kernel"),
            policy=str(self.directory / "policy"),
            find=self.find,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def test_the_profile_is_loaded_once(machine: Machine) -> None:
    one = machine.life()
    assert one.standing() == Confined(enabled=True, profile=PROFILE)
    assert await one.ensure() is None
    assert await one.ensure() is None
    assert machine.calls() == ["--skip-cache --replace"]
    assert f"profile {PROFILE} " in (machine.directory / "text").read_text()
    assert one.standing() == Confined(enabled=True, profile=PROFILE, mode="enforce")
    record = machine.directory / "run/apparmor.json"
    assert record.stat().st_mode & 0o777 == 0o600
    text = (machine.directory / "text").read_bytes()
    assert json.loads(record.read_bytes())["text"] == "sha256:" + hashlib.sha256(text).hexdigest()


async def test_the_next_life_finds_it(machine: Machine) -> None:
    await machine.life().ensure()
    again = machine.life()
    assert await again.ensure() is None
    assert len(machine.calls()) == 1
    assert again.standing().mode == "enforce"


def _reload(machine: Machine) -> None:
    (machine.directory / "policy/abi/3.0").touch()  # the parser was updated: the text is another one


def _replace(machine: Machine) -> None:
    machine.hash.write_text("0" * 64)


def _hide(machine: Machine) -> None:
    machine.hash.unlink()


def _remove(machine: Machine) -> None:
    machine.profiles.write_text("other (enforce)\nocid-default-2 (enforce)\n")


def _spoil(machine: Machine) -> None:
    (machine.directory / "run/apparmor.json").write_bytes(b"{")


@pytest.mark.parametrize("change", [_reload, _replace, _hide, _remove, _spoil])
async def test_the_next_life_loads_it_again_unless_all_is_as_it_was(
    machine: Machine, change: Callable[[Machine], None]
) -> None:
    await machine.life().ensure()
    change(machine)
    assert await machine.life().ensure() is None
    assert len(machine.calls()) == 2


async def test_what_somebody_unloads_is_loaded_for_the_next_container(machine: Machine) -> None:
    one = machine.life()
    await one.ensure()
    _remove(machine)
    assert await one.ensure() is None
    assert len(machine.calls()) == 2


async def test_a_parser_that_refuses_leaves_a_gap_until_it_does_not(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine.does("refuse")
    one = machine.life()
    gap = Gap(reason="loading apparmor profile 'ocid-default': exit code 1: syntax error, line 7")
    assert [await one.ensure(), await one.ensure()] == [gap, gap]
    assert len(machine.calls()) == 1, "it is not asked again at once"
    assert one.standing() == Confined(enabled=True, profile=PROFILE, problem=gap.reason)
    assert [record.message for record in caplog.records] == [
        f"apparmor profile ocid-default is not in force, containers are refused: {gap.reason}"
    ]
    monkeypatch.setattr(apparmor, "RETRY_S", 0.0)
    machine.does("load")
    assert await one.ensure() is None
    assert one.standing().problem == ""


async def test_a_parser_that_says_yes_and_does_nothing_is_not_believed(machine: Machine) -> None:
    machine.does("nothing")
    gap = await machine.life().ensure()
    assert gap == Gap(reason="apparmor_parser did not load 'ocid-default', and said 'cannot be'")


async def test_a_node_without_a_parser(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.program.unlink()
    gap = await machine.life().ensure()
    assert gap is not None
    assert gap.tool_missing
    assert "there is no apparmor_parser on this node: install it" in gap.reason
    assert "containers that name no profile run unconfined" in caplog.text
    machine.profiles.write_text("ocid-default (complain)\n")
    somebodys = machine.life()
    assert await somebodys.ensure() is None, "who could load it, could load any"
    assert somebodys.standing().mode == "complain"


async def test_a_list_that_cannot_be_read_is_a_gap(machine: Machine) -> None:
    machine.profiles.unlink()
    assert await machine.life().ensure() == Gap(
        reason="the kernel's list of apparmor profiles: No such file or directory"
    )


async def test_a_record_that_cannot_be_written_costs_a_parser_at_the_next_start(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    (machine.directory / "run").rmdir()
    assert await machine.life().ensure() is None
    assert "apparmor.json: No such file" in caplog.text


async def test_nothing_is_loaded_where_it_is_not_the_default_or_there_is_no_apparmor(machine: Machine) -> None:
    for one in (machine.life("mine"), machine.life(""), machine.life(enabled=False)):
        assert await one.ensure() is None
    assert not machine.calls()
    assert machine.life("mine").standing() == Confined(enabled=True, profile="mine")
    assert machine.life(enabled=False).standing() == Confined(enabled=False, profile=PROFILE)
