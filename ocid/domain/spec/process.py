"""The OCI ``process`` object: arguments, environment, user, limits and privileges.

Source: CRI ContainerConfig; OCI config.md "Process"; OCI image-spec conversion.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ocid.domain.configs import ContainerConfig
from ocid.domain.image_config import ImageConfig
from ocid.domain.spec.capabilities import available, capability_sets
from ocid.domain.spec.inputs import HostFacts, Rlimit, SpecInputs
from ocid.domain.spec.users import ProcessUser, resolve_user
from ocid.errors import InvalidRequest

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TERMINAL: Final = "xterm"  # what TERM says when there is a terminal and nobody says otherwise
OOM_SCORE_ADJ_MIN: Final = -1000
OOM_SCORE_ADJ_MAX: Final = 1000


def container_process(inputs: SpecInputs, *, apparmor_profile: str = "") -> dict[str, object]:
    """The ``process`` of a container.

    Raises:
        InvalidRequest: there is nothing to run, or user, capability or environment cannot be what is asked.
    """
    config, image, host, policy = inputs.container, inputs.image, inputs.host, inputs.policy
    security = config.linux.security_context
    user = resolve_user(security, image.user, inputs.passwd, inputs.group)
    gids = tuple(dict.fromkeys((*user.additional_gids, *inputs.extra_gids)))
    user = msgspec.structs.replace(user, additional_gids=gids)
    process: dict[str, object] = {
        "terminal": config.tty,
        "user": oci_user(user),
        "args": list(arguments(config, image)),
        "env": environment(inputs),
        "cwd": working_dir(config, image),
        "capabilities": capability_sets(
            security.capabilities,
            privileged=security.privileged,
            default=policy.default_capabilities,
            available=available(host.capabilities, host.last_cap),
        ),
        "noNewPrivileges": security.no_new_privs,
        "oomScoreAdj": oom_score_adj(config, host),
    }
    limits = [_rlimit(limit, host) for limit in policy.rlimits]
    if limits:
        process["rlimits"] = limits
    if apparmor_profile:
        process["apparmorProfile"] = apparmor_profile
    if inputs.selinux_process_label and host.selinux_enabled:
        process["selinuxLabel"] = inputs.selinux_process_label
    return process


def exec_process(process: dict[str, object], argv: tuple[str, ...], *, terminal: bool) -> dict[str, object]:
    """The ``process`` of an exec in a running container whose own process is *process*.

    It inherits everything but arguments and terminal, for a user who execs expects the container's own environment.
    """
    if not argv or not argv[0]:
        raise InvalidRequest("exec has no command, wanted at least one argument")
    env = process.get("env")
    variables = [str(item) for item in env] if isinstance(env, list) else []
    if terminal and not any(item.startswith("TERM=") for item in variables):
        variables.append(f"TERM={TERMINAL}")
    return {**process, "args": list(argv), "terminal": terminal, "env": variables}


def arguments(config: ContainerConfig, image: ImageConfig) -> tuple[str, ...]:
    """What runs: a command replaces the image's entrypoint *and* its cmd, arguments replace only the cmd.

    Raises:
        InvalidRequest: neither the config nor the image says what to run.
    Source: CRI ContainerConfig.command, .args; Kubernetes "Define a Command and Arguments for a Container".
    """
    entrypoint = image.entrypoint if image.entrypoint != ("",) else ()  # how Dockerfiles clear an inherited one
    argv = config.command + config.args if config.command else entrypoint + (config.args or image.cmd)
    if not argv or not argv[0]:
        raise InvalidRequest("no command specified: neither the container nor its image has a command or entrypoint")
    return argv


def environment(inputs: SpecInputs) -> list[str]:
    """``NAME=value`` lines, each name once, in the order of first mention: defaults, policy, image, config, CDI.

    Raises:
        InvalidRequest: a name is empty or holds "=", a value is not UTF-8 (OCI specs are JSON), or either holds NUL.
    """
    variables = {"PATH": DEFAULT_PATH}
    if inputs.container.tty:
        variables["TERM"] = TERMINAL
    hostname = inputs.pod.effective_hostname(inputs.pod_id, inputs.host.hostname)
    if hostname:
        variables["HOSTNAME"] = hostname
    for line in inputs.policy.env + inputs.image.env:
        name, _, value = line.partition("=")
        if name and "\0" not in line:  # an image's slip must not keep it from running
            variables[name] = value
    for variable in inputs.container.envs:
        name = variable.key
        if not name or "=" in name or "\0" in name or b"\0" in variable.value:
            raise InvalidRequest(f"envs key {name[:100]!r}: wanted a name without '=' and NUL, and a value without NUL")
        try:
            variables[name] = variable.value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"envs value of {name[:100]!r} is not UTF-8, which an OCI spec cannot hold") from error
    for line in inputs.extra_env:
        name, _, value = line.partition("=")
        variables[name] = value
    return [f"{name}={value}" for name, value in variables.items()]


def working_dir(config: ContainerConfig, image: ImageConfig) -> str:
    """The directory to start in: the config's, else the image's, else "/"; always absolute, as OCI demands."""
    path = config.working_dir or image.working_dir or "/"
    return path if path.startswith("/") else f"/{path}"


def oci_user(user: ProcessUser) -> dict[str, object]:
    """The ``process.user`` object. OCI config.md "User"."""
    return {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.additional_gids)}


def oom_score_adj(config: ContainerConfig, host: HostFacts) -> int:
    """The score asked for, no lower than this daemon may set.

    Without CAP_SYS_RESOURCE the kernel refuses to go below the daemon's own score; the kubelet's -997 for guaranteed
    pods is then a wish, and a container that starts is worth more than one that does not.
    """
    resources = config.linux.resources
    return clamped_oom_score_adj(resources.oom_score_adj if resources is not None else 0, host)


def clamped_oom_score_adj(wanted: int, host: HostFacts) -> int:
    """*wanted* within -1000 to 1000 and, without CAP_SYS_RESOURCE, not below the daemon's own score."""
    floor = OOM_SCORE_ADJ_MIN if host.can_lower_oom_score_adj else host.oom_score_adj
    return max(floor, min(OOM_SCORE_ADJ_MAX, wanted))


def fitted(process: Mapping[str, Any], host: HostFacts) -> dict[str, Any]:
    """An OCI process that somebody else changed, with score and limits within what this daemon can set."""
    made = dict(process)
    if "oomScoreAdj" in made:
        made["oomScoreAdj"] = clamped_oom_score_adj(made["oomScoreAdj"], host)
    if "rlimits" in made:
        limits = (Rlimit(kind=one["type"], soft=one["soft"], hard=one["hard"]) for one in made["rlimits"])
        made["rlimits"] = [_rlimit(limit, host) for limit in limits]
    return made


def _rlimit(limit: Rlimit, host: HostFacts) -> dict[str, object]:
    """One OCI rlimit, not above the daemon's own ceiling where it cannot raise that."""
    ceiling = host.rlimits_hard.get(limit.kind, limit.hard)
    hard = min(limit.hard, ceiling)
    return {"type": limit.kind, "hard": hard, "soft": min(limit.soft, hard)}
