"""How a container is confined: masked and read-only paths, and which seccomp and AppArmor profile applies.

Source: CRI LinuxContainerSecurityContext; OCI config-linux.md "Masked Paths", "Readonly Paths", "Seccomp".
"""

from __future__ import annotations

from typing import Final

from ocid.domain.apparmor import PROFILE, Gap
from ocid.domain.configs import ContainerSecurityContext, ProfileType, SecurityProfile
from ocid.domain.spec.inputs import HostFacts, SpecPolicy
from ocid.domain.spec.seccomp import default_seccomp, parse_profile, resolve_profile
from ocid.errors import InvalidRequest, Unsupported

# What tells about the host, or reaches it. The kubelet sends such a list itself; this one is for other clients.
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DEFAULT_NAMES: Final = ("runtime/default", "docker/default")
_LOCALHOST: Final = "localhost/"


def path_lists(security: ContainerSecurityContext) -> tuple[list[str], list[str]]:
    """The masked and the read-only paths of a container.

    Privileged containers have none. An empty list cannot be told from an absent one on the wire: it is taken at its
    word (procMount Unmasked) only in a user namespace, outside of which Kubernetes does not admit it, and means the
    defaults elsewhere.
    """
    if security.privileged:
        return [], []
    own_users = security.namespace_options.user_namespace is not None
    masked = security.masked_paths or (() if own_users else MASKED_PATHS)
    readonly = security.readonly_paths or (() if own_users else READONLY_PATHS)
    return list(masked), list(readonly)


def seccomp_profile(security: ContainerSecurityContext, policy: SpecPolicy) -> SecurityProfile:
    """The seccomp profile that applies: none for privileged, else the config's, else the deprecated path's."""
    if security.privileged:
        return SecurityProfile(profile_type=ProfileType.UNCONFINED)
    if security.seccomp is not None:
        return security.seccomp
    return _legacy(security.seccomp_profile_path, policy.seccomp_when_absent)


def seccomp_localhost_path(security: ContainerSecurityContext, policy: SpecPolicy) -> str:
    """The profile file that an adapter has to read for this container, or ""."""
    profile = seccomp_profile(security, policy)
    return profile.localhost_ref if profile.profile_type is ProfileType.LOCALHOST else ""


def oci_seccomp(
    profile: SecurityProfile, localhost: bytes, capabilities: frozenset[str], host: HostFacts
) -> dict[str, object] | None:
    """The OCI ``linux.seccomp``, or None for unconfined.

    Raises:
        InvalidRequest: a localhost profile is not given, or not a profile.
        Unsupported: a localhost profile is asked for and the kernel has no seccomp.
    """
    if profile.profile_type is ProfileType.UNCONFINED:
        return None
    if profile.profile_type is ProfileType.RUNTIME_DEFAULT:
        return default_seccomp(capabilities, host.architecture, host.kernel) if host.seccomp_enabled else None
    if not host.seccomp_enabled:
        raise Unsupported(f"seccomp profile {profile.localhost_ref!r} is asked for, but this kernel has no seccomp")
    if not profile.localhost_ref or not localhost:
        raise InvalidRequest(f"seccomp profile {profile.localhost_ref!r} is empty or was not found on this node")
    return resolve_profile(parse_profile(localhost), capabilities, host.architecture, host.kernel)


def apparmor_profile(
    security: ContainerSecurityContext,
    policy: SpecPolicy,
    host: HostFacts,
    loaded: frozenset[str] | None = None,
    gap: Gap | None = None,
) -> str:
    """The OCI ``process.apparmorProfile``, or "" for none.

    Where nobody uses AppArmor on a node whose kernel has it, only those are refused that ask for the default profile by
    name; where it is used and the profile cannot be loaded, no container goes without it unnoticed.

    Args:
        loaded: the names that the kernel knows, where somebody looked.
        gap: why our own profile is not one of them.
    Raises:
        InvalidRequest: a localhost profile without a name, or one that is not loaded.
        EffectFailed: our own profile applies and could not be loaded.
        Unsupported: a profile is named and the host has no AppArmor.
    """
    wanted = _apparmor(security)
    name = _apparmor_name(wanted, policy, host)
    if gap is not None and name == PROFILE and wanted.profile_type is ProfileType.RUNTIME_DEFAULT:
        if gap.tool_missing and security.apparmor is None and not security.apparmor_profile:
            return ""
        raise gap.refuse()
    if name and loaded is not None and name not in loaded:
        raise InvalidRequest(f"apparmor profile {name[:200]!r} is not loaded: load it with apparmor_parser")
    return name


def needs_default_apparmor(security: ContainerSecurityContext) -> bool:
    """Whether the node's default profile applies to a container.

    Raises:
        InvalidRequest: the deprecated field is none of its three forms.
    """
    return _apparmor(security).profile_type is ProfileType.RUNTIME_DEFAULT


def _apparmor(security: ContainerSecurityContext) -> SecurityProfile:
    """The profile that is asked for. No word about it means the default one, as in other runtimes."""
    if security.privileged:
        return SecurityProfile(profile_type=ProfileType.UNCONFINED)
    if security.apparmor is not None:
        return security.apparmor
    return _legacy(security.apparmor_profile, ProfileType.RUNTIME_DEFAULT)


def _apparmor_name(wanted: SecurityProfile, policy: SpecPolicy, host: HostFacts) -> str:
    if wanted.profile_type is ProfileType.UNCONFINED:
        return ""
    if wanted.profile_type is ProfileType.RUNTIME_DEFAULT:
        return policy.apparmor_default if host.apparmor_enabled else ""
    name = wanted.localhost_ref.removeprefix(_LOCALHOST)
    if not name:
        raise InvalidRequest("apparmor profile is Localhost without a name: wanted localhost_ref")
    if not host.apparmor_enabled:
        raise Unsupported(f"apparmor profile {name!r} is asked for, but this host has no AppArmor")
    return name


def _legacy(text: str, when_absent: ProfileType) -> SecurityProfile:
    """The deprecated one-string spelling of a profile."""
    if not text:
        return SecurityProfile(profile_type=when_absent)
    if text in _DEFAULT_NAMES:
        return SecurityProfile(profile_type=ProfileType.RUNTIME_DEFAULT)
    if text == "unconfined":
        return SecurityProfile(profile_type=ProfileType.UNCONFINED)
    if text.startswith(_LOCALHOST):
        return SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref=text.removeprefix(_LOCALHOST))
    raise InvalidRequest(f"profile {text[:200]!r}: wanted 'runtime/default', 'unconfined' or 'localhost/<name>'")
