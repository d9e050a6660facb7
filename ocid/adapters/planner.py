"""Planning what the log may lose, in a process beside the daemon, and the archives' directory."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import trio

from ocid.adapters import command
from ocid.errors import EffectFailed, NotFound
from ocid.ports.retention import Old, Plan

PLAN_S_MAX: Final = 3600.0
_NAME: Final = re.compile(r"([0-9]{20})-([0-9]{20})\.ocid-archive")


class HostPlanner:
    """Implements ``Planner``."""

    def __init__(self, log: Path, archives: Path | None, run_dir: Path) -> None:
        """*archives* is made where it is missing; None: nothing is archived."""
        self._log = log
        self._archives = archives
        self._plan = run_dir / "trim-plan"

    async def plan(self, through: int) -> Plan:
        """See ``Planner``."""
        where = [] if self._archives is None else [str(self._archives)]
        argv = [sys.executable, "-m", "ocid.cli.retain", str(self._log), str(through), str(self._plan), *where]
        package = str(Path(__file__).parents[2])
        await command.run(
            argv,
            doing=f"planning to trim the log up to record {through}",
            timeout_s=PLAN_S_MAX,
            environment=command.tool_environment(PYTHONPATH=package),
        )
        try:
            return msgspec.msgpack.decode(self._plan.read_bytes(), type=Plan)
        except (OSError, msgspec.MsgspecError) as error:
            raise EffectFailed(f"the plan to trim the log in {str(self._plan)!r} cannot be read: {error}") from error
        finally:
            self._plan.unlink(missing_ok=True)

    async def archives(self) -> Sequence[Old]:
        """See ``Planner``."""
        await trio.lowlevel.checkpoint()
        if self._archives is None or not self._archives.is_dir():
            return []
        found = [(path, fits) for path in self._archives.iterdir() if (fits := _NAME.fullmatch(path.name))]
        return sorted(
            (Old(str(path), int(fits[1]), int(fits[2]), path.lstat().st_size) for path, fits in found),
            key=lambda old: old.first,
        )

    async def remove(self, archive: Old) -> None:
        """See ``Planner``."""
        await trio.lowlevel.checkpoint()
        path = Path(archive.path)
        if self._archives is None or path.parent != self._archives:
            raise NotFound("archive", archive.path)
        await trio.to_thread.run_sync(path.unlink, True)
