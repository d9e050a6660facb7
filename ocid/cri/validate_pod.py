"""What a pod's configuration must be. CRI PodSandboxConfig; used by ``ocid.cri.validate``."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from ocid.cri import checks, translate
from ocid.cri.stubs import api_pb2 as pb
from ocid.cri.validate_resources import linux_resources
from ocid.cri.validate_security import ids, namespace_options, profile, selinux
from ocid.domain import sysctls
from ocid.domain.resolv import resolv_conf
from ocid.errors import InvalidRequest

POD_NAME_BYTES_MAX: Final = 253  # a DNS subdomain; Kubernetes "Object Names and IDs"
NAMESPACE_BYTES_MAX: Final = 128  # Kubernetes stops at 63; leaves room for other clients
UID_BYTES_MAX: Final = 128  # Kubernetes' are 36
HOSTNAME_BYTES_MAX: Final = 64  # HOST_NAME_MAX, sethostname(2)
CGROUP_BYTES_MAX: Final = 512  # the kubelet's are below 120
DNS_BYTES_MAX: Final = 2048  # of one search or option; the kubelet's searches are no longer all together
PORTS_MAX: Final = 4096  # an nftables rule each
SYSCTLS_MAX: Final = 256
SYSCTL_BYTES_MAX: Final = 4096  # of a value: a page, which is what the kernel takes

_HOSTNAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_SYSCTL: Final = re.compile(r"[A-Za-z0-9_*-]+(?:[./][A-Za-z0-9_*-]+)+")


def pod_config(config: pb.PodSandboxConfig, where: str) -> None:
    """All of a pod's configuration; *where* is its path in the request, with a dot at the end."""
    checks.present(config, "metadata", where)
    for field, limit in (
        ("name", POD_NAME_BYTES_MAX),
        ("uid", UID_BYTES_MAX),
        ("namespace", NAMESPACE_BYTES_MAX),
    ):
        checks.name(getattr(config.metadata, field), f"{where}metadata.{field}", limit)
    checks.short(config.hostname, f"{where}hostname", HOSTNAME_BYTES_MAX)
    if config.hostname and _HOSTNAME.fullmatch(config.hostname) is None:
        raise InvalidRequest(f"{where}hostname is {config.hostname!r}, wanted letters, digits, '-', '.' and '_'")
    if config.log_directory:
        checks.absolute_path(config.log_directory, f"{where}log_directory")
    checks.labels(config.labels, f"{where}labels")
    checks.labels(config.annotations, f"{where}annotations")
    if config.HasField("dns_config"):
        _dns(config.dns_config, f"{where}dns_config")
    _ports(config, f"{where}port_mappings")
    _linux(config.linux, f"{where}linux.")


def _dns(dns: pb.DNSConfig, where: str) -> None:
    for index, server in enumerate(dns.servers):
        checks.ip_address(server, f"{where}.servers[{index}]", zone=True)
    for field in ("searches", "options"):
        for index, text in enumerate(getattr(dns, field)):
            checks.line(text, f"{where}.{field}[{index}]", DNS_BYTES_MAX)
    resolv_conf(translate.dns_config(dns), "")


def _ports(config: pb.PodSandboxConfig, where: str) -> None:
    checks.at_most(len(config.port_mappings), where, PORTS_MAX)
    taken: dict[tuple[int, int], list[str]] = {}
    for index, port in enumerate(config.port_mappings):
        at = f"{where}[{index}]"
        checks.within(port.host_port, f"{at}.host_port", 0, 65535)
        checks.within(port.container_port, f"{at}.container_port", 1 if port.host_port else 0, 65535)
        if port.host_ip:
            checks.ip_address(port.host_ip, f"{at}.host_ip")
        if not port.host_port:
            continue
        address = str(ipaddress.ip_address(port.host_ip)) if port.host_ip else ""
        others = taken.setdefault((port.protocol, port.host_port), [])
        if address in others:
            raise InvalidRequest(f"{at}.host_port {port.host_port} is mapped twice, wanted each port once")
        others.append(address)


def _linux(linux: pb.LinuxPodSandboxConfig, where: str) -> None:
    parent = linux.cgroup_parent
    checks.line(parent, f"{where}cgroup_parent", CGROUP_BYTES_MAX)
    if ".." in parent.split("/"):
        raise InvalidRequest(f"{where}cgroup_parent is {parent[:100]!r}, wanted a path without '..' or a slice's name")
    for part in parent.split("/"):
        checks.short(part, f"part of {where}cgroup_parent", checks.NAME_BYTES_MAX)
    security, at = linux.security_context, f"{where}security_context."
    options = security.namespace_options
    namespace_options(options, f"{at}namespace_options.")
    if options.pid == pb.TARGET:
        raise InvalidRequest(f"{at}namespace_options.pid is TARGET, which only a container can have")
    ids(security, at)
    if security.HasField("run_as_group") and not security.HasField("run_as_user"):
        raise InvalidRequest(f"{at}run_as_group is set, wanted run_as_user beside it")
    selinux(security.selinux_options, f"{at}selinux_options.")
    profile(security, "seccomp", at)
    profile(security, "apparmor", at)
    _sysctls(linux, f"{where}sysctls")
    for field in ("overhead", "resources"):
        if linux.HasField(field):
            linux_resources(getattr(linux, field), f"{where}{field}.")


def _sysctls(linux: pb.LinuxPodSandboxConfig, where: str) -> None:
    """A sysctl of a namespace that is the host's, or of none, would change the node."""
    checks.at_most(len(linux.sysctls), where, SYSCTLS_MAX)
    options = linux.security_context.namespace_options
    for name, value in linux.sysctls.items():
        if _SYSCTL.fullmatch(name) is None:
            raise InvalidRequest(f"{where} has {name[:100]!r}, wanted a name such as 'net.core.somaxconn'")
        checks.short(value, f"{where}[{name[:100]!r}]", SYSCTL_BYTES_MAX)
    try:
        sysctls.check(linux.sysctls, sysctls.own_namespaces(translate.namespace_options(options)))
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}") from None
