"""What security contexts must be, of pods and of containers. Used by ``ocid.cri.validate``.

Source: CRI LinuxSandboxSecurityContext, LinuxContainerSecurityContext, NamespaceOption.
"""

from __future__ import annotations

from typing import Final

from ocid.cri import checks
from ocid.cri.stubs import api_pb2 as pb
from ocid.domain.spec.capabilities import capability_name
from ocid.domain.spec.users import GROUPS_MAX, ID_MAX
from ocid.errors import InvalidRequest

PATHS_MAX: Final = 1024  # masked or read-only, a mount each
CAPABILITIES_MAX: Final = 256  # in one list; Linux has 41
USERNAME_BYTES_MAX: Final = 256
PROFILE_BYTES_MAX: Final = 4095  # of a profile's name or path
LABEL_BYTES_MAX: Final = 1024  # of one part of an SELinux label; a level with many categories is the longest

Security = pb.LinuxContainerSecurityContext | pb.LinuxSandboxSecurityContext


def container_security(security: pb.LinuxContainerSecurityContext, where: str) -> None:
    """A container's security context; *where* is its path in the request, with a dot at the end."""
    options = security.namespace_options
    namespace_options(options, f"{where}namespace_options.")
    if options.pid == pb.TARGET:
        if not options.target_id:
            raise InvalidRequest(f"{where}namespace_options.pid is TARGET, wanted target_id beside it")
        checks.short(options.target_id, f"{where}namespace_options.target_id", checks.ID_BYTES_MAX)
    ids(security, where)
    if security.HasField("run_as_group") and not (security.HasField("run_as_user") or security.run_as_username):
        raise InvalidRequest(f"{where}run_as_group is set, wanted run_as_user or run_as_username beside it")
    checks.line(security.run_as_username, f"{where}run_as_username", USERNAME_BYTES_MAX)
    _capabilities(security.capabilities, f"{where}capabilities.")
    for field in ("masked_paths", "readonly_paths"):
        paths = getattr(security, field)
        checks.at_most(len(paths), f"{where}{field}", PATHS_MAX)
        for path in paths:
            checks.absolute_path(path, f"{where}{field}")
            if not path.strip("/."):
                raise InvalidRequest(f"{where}{field} has {path!r}, wanted a path below the root")
    selinux(security.selinux_options, f"{where}selinux_options.")
    profile(security, "seccomp", where)
    profile(security, "apparmor", where)
    checks.line(security.apparmor_profile, f"{where}apparmor_profile", PROFILE_BYTES_MAX)
    checks.line(security.seccomp_profile_path, f"{where}seccomp_profile_path", PROFILE_BYTES_MAX)


def _capabilities(changes: pb.Capability, where: str) -> None:
    for field in ("add_capabilities", "drop_capabilities", "add_ambient_capabilities"):
        names = getattr(changes, field)
        checks.at_most(len(names), f"{where}{field}", CAPABILITIES_MAX)
        for name in names:
            capability_name(name)


def namespace_options(options: pb.NamespaceOption, where: str) -> None:
    """Which namespaces are shared with whom."""
    if options.network not in (pb.POD, pb.NODE):
        raise InvalidRequest(f"{where}network is {pb.NamespaceMode.Name(options.network)}, wanted POD or NODE")
    if options.ipc not in (pb.POD, pb.NODE):
        raise InvalidRequest(f"{where}ipc is {pb.NamespaceMode.Name(options.ipc)}, wanted POD or NODE")
    if options.HasField("userns_options"):
        _users(options.userns_options, where)


def _users(users: pb.UserNamespace, where: str) -> None:
    if users.mode == pb.NODE:
        if users.uids or users.gids:
            raise InvalidRequest(f"{where}userns_options has mappings, but its mode is NODE")
        return
    if users.mode != pb.POD:
        raise InvalidRequest(f"{where}userns_options.mode is {pb.NamespaceMode.Name(users.mode)}, wanted POD or NODE")
    for field in ("uids", "gids"):
        mappings = getattr(users, field)
        if len(mappings) != 1:
            raise InvalidRequest(f"{where}userns_options.{field} has {len(mappings)} mappings, wanted exactly one")
        if mappings[0].container_id != 0 or mappings[0].length == 0:
            raise InvalidRequest(f"{where}userns_options.{field} does not map container id 0")
        if mappings[0].host_id + mappings[0].length > 2**32 - 1:
            raise InvalidRequest(f"{where}userns_options.{field} reaches past the last id, {2**32 - 2}")


def ids(security: Security, where: str) -> None:
    """Users and groups by number."""
    if security.HasField("run_as_user"):
        checks.within(security.run_as_user.value, f"{where}run_as_user", 0, ID_MAX)
    if security.HasField("run_as_group"):
        checks.within(security.run_as_group.value, f"{where}run_as_group", 0, ID_MAX)
    checks.at_most(len(security.supplemental_groups), f"{where}supplemental_groups", GROUPS_MAX)
    for group in security.supplemental_groups:
        checks.within(group, f"{where}supplemental_groups", 0, ID_MAX)


def selinux(options: pb.SELinuxOption, where: str) -> None:
    """The four parts of a label, which ":" separates; only a level has one in itself."""
    for field in ("user", "role", "type", "level"):
        text = getattr(options, field)
        checks.line(text, f"{where}{field}", LABEL_BYTES_MAX)
        if " " in text or (":" in text and field != "level"):
            raise InvalidRequest(f"{where}{field} is {text[:100]!r}, wanted one part of an SELinux label")


def profile(security: Security, field: str, where: str) -> None:
    """A seccomp or AppArmor profile: one of this node is named, a seccomp profile by its file's path."""
    if not security.HasField(field):  # type: ignore[arg-type]
        return
    wanted: pb.SecurityProfile = getattr(security, field)
    at = f"{where}{field}.localhost_ref"
    checks.line(wanted.localhost_ref, at, PROFILE_BYTES_MAX)
    if wanted.profile_type != pb.SecurityProfile.Localhost:
        return
    if field == "seccomp":
        checks.absolute_path(wanted.localhost_ref, at)
    checks.filled(wanted.localhost_ref, at, PROFILE_BYTES_MAX)
