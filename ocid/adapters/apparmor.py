"""Loads the default AppArmor profile into the kernel: the ``Confinement`` port.

What was loaded is remembered in a file of the run directory, as the digest of the profile's text and the kernel's own
hash of what it has under that name. While both are what they were, a start of the daemon runs no parser.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from ocid.adapters.command import find_tool, run
from ocid.domain import apparmor
from ocid.domain.apparmor import ABIS, PROFILE, Dialect, Gap
from ocid.errors import EffectFailed, OcidError
from ocid.ids import digest_of
from ocid.ports.confinement import Confined

log = logging.getLogger("ocid.apparmor")

LOAD_S: Final = 60.0  # for the parser; 0.1 s on a common machine
RETRY_S: Final = 10.0  # between two attempts to load what could not be loaded
_LIST_BYTES_MAX: Final = 8 << 20  # some 100,000 profiles
_HASHES: Final = ("sha256", "sha1")  # what kernels call the file, the newer first


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What this daemon, or one before it, has loaded."""

    text: str  # digest of the profile's text
    kernel: str  # what the kernel says of the profile then, as "sha256:…"; "" where it does not


class AppArmor:
    """Keeps our profile loaded, for *default* being its name."""

    def __init__(
        self,
        directory: Path,
        default: str,
        *,
        enabled: bool,
        securityfs: str = "/sys/kernel/security/apparmor",
        policy: str = "/etc/apparmor.d",
        find: Callable[[str], str] = find_tool,
    ) -> None:
        """Remember in *directory*, where only root can write; *enabled*: the kernel has AppArmor."""
        self._record = directory / "apparmor.json"
        self._default = default
        self._enabled = enabled
        self._securityfs = securityfs
        self._policy = policy
        self._find = find
        self._lock = trio.Lock()
        self._checked = False  # that what the kernel has is our text
        self._gap: Gap | None = None
        self._gap_at = 0.0  # trio's time
        self._mode = ""

    async def ensure(self) -> Gap | None:
        """Have our profile in the kernel, or say why not."""
        if not self._enabled or self._default != PROFILE:
            return None
        async with self._lock:
            if self._gap is not None and trio.current_time() < self._gap_at + RETRY_S:
                return self._gap
            try:
                if not (self._checked and self._look()):
                    await self._load()
            except OcidError as error:
                self._note(Gap(reason=error.message, tool_missing=self._parser() is None))
            else:
                self._note(None)
            return self._gap

    def standing(self) -> Confined:
        """Return how the profile stood when it was last looked at."""
        if not self._enabled or self._default != PROFILE:
            return Confined(enabled=self._enabled, profile=self._default)
        mode = self._mode if self._checked else ""
        return Confined(enabled=True, profile=PROFILE, mode=mode, problem="" if self._gap is None else self._gap.reason)

    async def _load(self) -> None:
        text = apparmor.profile_text(self._dialect())
        wanted = Record(text=digest_of(text.encode()), kernel=self._kernel_hash())
        if self._look() and wanted.kernel and wanted == self._remembered():
            return
        parser = self._parser()
        if parser is None:
            if self._mode:
                return  # somebody else has loaded one of this name, who could load any
            raise EffectFailed(
                "there is no apparmor_parser on this node: install it (Debian and Ubuntu: apparmor), or set "
                f"apparmor_default = {apparmor.UNCONFINED!r}"
            )
        words = [parser, "--skip-cache", "--replace"]
        done = await run(words, doing=f"loading apparmor profile {PROFILE!r}", timeout_s=LOAD_S, stdin=text.encode())
        if not self._look():  # the parser's exit code has not always told
            said = done.stderr.decode("utf-8", "replace").strip()[-1000:]
            raise EffectFailed(f"apparmor_parser did not load {PROFILE!r}, and said {said!r}")
        self._remember(msgspec.structs.replace(wanted, kernel=self._kernel_hash()))
        log.info("loaded apparmor profile %s (%s)", PROFILE, self._mode)

    def _note(self, gap: Gap | None) -> None:
        if gap is not None and gap != self._gap:
            effect = "containers that name no profile run unconfined" if gap.tool_missing else "containers are refused"
            log.warning("apparmor profile %s is not in force, %s: %s", PROFILE, effect, gap.reason)
        self._checked = gap is None
        self._gap, self._gap_at = gap, trio.current_time()

    # --- looks -------------------------------------------------------------------------------------------------------

    def _look(self) -> bool:
        """Say whether the kernel has a profile of our name, and note its mode."""
        try:
            with open(f"{self._securityfs}/profiles", encoding="utf-8", errors="surrogateescape") as file:
                self._mode = apparmor.modes(file.read(_LIST_BYTES_MAX)).get(PROFILE, "")
        except OSError as error:
            raise EffectFailed(f"the kernel's list of apparmor profiles: {error.strerror}") from error
        return bool(self._mode)

    def _kernel_hash(self) -> str:
        """Return the kernel's hash of the profile of our name, or "" when it has none or does not tell."""
        for directory in Path(self._securityfs, "policy/profiles").glob(f"{PROFILE}.*"):
            with suppress(OSError):
                if (directory / "name").read_text(encoding="utf-8").strip() == PROFILE:
                    kinds = [name for name in _HASHES if (directory / name).exists()]
                    return "".join(f"{one}:{(directory / one).read_text('ascii').strip()}" for one in kinds[:1])
        return ""

    def _dialect(self) -> Dialect:
        abi = next((one for one in ABIS if os.path.exists(f"{self._policy}/abi/{one}")), "")
        with suppress(OSError):
            return Dialect(abi=abi, own_label=apparmor.label_of(Path("/proc/self/attr/current").read_text("utf-8")))
        return Dialect(abi=abi)

    def _parser(self) -> str | None:
        with suppress(EffectFailed):
            return self._find("apparmor_parser")
        return None

    # --- memory ------------------------------------------------------------------------------------------------------

    def _remembered(self) -> Record | None:
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Record)
        except (OSError, msgspec.MsgspecError):
            return None

    def _remember(self, record: Record) -> None:
        """Write the file anew. Without it, the next start loads the profile again."""
        fresh = self._record.with_suffix(".new")
        try:
            fresh.write_bytes(msgspec.json.encode(record))
            fresh.chmod(0o600)
            fresh.replace(self._record)
        except OSError as error:
            log.warning("%s: %s", self._record, error.strerror)
