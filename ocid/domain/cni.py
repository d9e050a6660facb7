"""CNI configurations, what a plugin is told, and what it answers. Pure: running plugins is ``ocid.adapters.cni``.

Configurations of the versions 0.3.0 to 1.1.0 are read, as lists (``.conflist``) and as single plugins (``.conf``,
``.json``), which count as lists of one. Everything that a plugin writes is bounded and checked before it is used.

Source: CNI specification 1.1.0, sections 1 to 5, and CONVENTIONS.md; older versions where they differ.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from ocid.domain.bandwidth import bandwidth_of
from ocid.domain.configs import DnsConfig, PortMapping
from ocid.errors import EffectFailed, InvalidRequest, Unavailable, tail

CONFIG_BYTES_MAX: Final = 1 << 20  # of one file; real ones are below 4 KiB
FILES_MAX: Final = 64  # configurations in the directory; the first valid one counts
PLUGINS_MAX: Final = 32  # in one list; real ones have two or three
OUTPUT_BYTES_MAX: Final = 1 << 20  # of one plugin run
ADDRESSES_MAX: Final = 32  # of one pod; CRI and Kubernetes use two

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")  # in order
DEL_WITH_RESULT_SINCE: Final = "0.4.0"  # the first version whose DEL is given prevResult
CHECK_SINCE: Final = "0.4.0"
GC_AND_STATUS_SINCE: Final = "1.1.0"
SUFFIXES: Final = (".conflist", ".conf", ".json")
MORE_SUFFIXES: Final = (".conf", ".json")  # in the directory of a network's further plugins
TRY_AGAIN: Final = 11  # the error code "Try again later"
IPS_ANNOTATION: Final = "network.ocid/ips"  # of a pod, for plugins with the capability "ips": CIDRs, by commas
MAC_ANNOTATION: Final = "network.ocid/mac"

BURST_BITS: Final = (1 << 31) - 1  # of a bandwidth limit: a quarter of a gigabyte passes unhindered, as elsewhere

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]{0,254}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """One plugin of a list."""

    type: str  # the program's name
    config: dict[str, Any]  # as written, without ``capabilities``
    capabilities: tuple[str, ...] = ()  # sorted; what it wants to be told

    @property
    def programs(self) -> tuple[str, ...]:
        """The plugin's own program, and the address manager that it calls."""
        ipam = self.config.get("ipam")
        kind = ipam.get("type") if isinstance(ipam, dict) else None
        return (self.type, kind) if isinstance(kind, str) and kind else (self.type,)


class NetworkList(msgspec.Struct, frozen=True, kw_only=True):
    """A network: plugins that are called one after the other."""

    name: str
    version: str  # one of VERSIONS
    plugins: tuple[Plugin, ...]
    disable_check: bool = False
    disable_gc: bool = False  # somebody else attaches to this network, too
    only_inlined: bool = True  # False: more plugins lie in a directory with the network's name
    file: str = ""  # where it was read from

    @property
    def maps_ports(self) -> bool:
        """Whether a plugin wants to be told of host ports: then they are its affair alone."""
        return any("portMappings" in plugin.capabilities for plugin in self.plugins)

    @property
    def checks(self) -> bool:
        """Whether its plugins know CHECK and may be asked for it."""
        return at_least(self, CHECK_SINCE) and not self.disable_check

    @property
    def collects(self) -> bool:
        """Whether its plugins know GC and may be asked for it."""
        return at_least(self, GC_AND_STATUS_SINCE) and not self.disable_gc

    @property
    def tells_status(self) -> bool:
        """Whether its plugins know STATUS."""
        return at_least(self, GC_AND_STATUS_SINCE)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an ADD."""

    addresses: tuple[str, ...]  # the pod's, without prefix length, in the plugin's order
    document: dict[str, Any]  # as the next plugin, and later DEL, get it


# --- configurations --------------------------------------------------------------------------------------------------


def choose(files: Mapping[str, bytes]) -> tuple[NetworkList | None, tuple[str, ...]]:
    """Return the first valid network by file name, and what is wrong with the files before it, or with all.

    Args:
        files: contents by name; names that do not end as configurations do are passed over.
    """
    faults: list[str] = []
    names = sorted(name for name in files if name.endswith(SUFFIXES))
    if len(names) > FILES_MAX:
        faults.append(f"{len(names)} CNI configurations, only the first {FILES_MAX} are read")
    for name in names[:FILES_MAX]:
        try:
            return parse(name, files[name]), tuple(faults)
        except InvalidRequest as error:
            faults.append(error.message)
    return None, tuple(faults)


def parse(file: str, raw: bytes) -> NetworkList:
    """Read one configuration.

    Raises:
        InvalidRequest: it is too large, no JSON, or breaks the specification; the message names file and fault.
    """

    def refuse(fault: str) -> InvalidRequest:
        return InvalidRequest(f"CNI configuration {file!r}: {fault}")

    if len(raw) > CONFIG_BYTES_MAX:
        raise refuse(f"{len(raw)} bytes, the limit is {CONFIG_BYTES_MAX}")
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refuse(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise refuse("not a JSON object")
    if "plugins" not in document and not file.endswith(".conflist"):
        document = {
            **_some(document, "name", "cniVersion", "cniVersions"),
            "plugins": [document],
            "loadOnlyInlinedPlugins": True,
        }
    name, plugins = document.get("name"), document.get("plugins")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise refuse(f"name {name!r}: wanted a letter or digit, then letters, digits, '_', '.' and '-'")
    if not isinstance(plugins, list) or not 0 < len(plugins) <= PLUGINS_MAX:
        raise refuse(f"'plugins' must be a list of 1 to {PLUGINS_MAX} plugins")
    try:
        version = _version(document)
        read = tuple(_plugin(plugin) for plugin in plugins)
    except ValueError as error:
        raise refuse(str(error)) from None
    return NetworkList(
        name=name,
        version=version,
        plugins=read,
        disable_check=_is_set(document, "disableCheck"),
        disable_gc=_is_set(document, "disableGC"),
        only_inlined=_is_set(document, "loadOnlyInlinedPlugins"),
        file=file,
    )


def at_least(network: NetworkList, version: str) -> bool:
    """Say whether a network is of *version* or a newer one."""
    return VERSIONS.index(network.version) >= VERSIONS.index(version)


def _is_set(document: Mapping[str, Any], key: str) -> bool:
    """Read a flag; older programs write it as text."""
    return document.get(key, False) in (True, "true", "True", "1")


def with_more(network: NetworkList, files: Mapping[str, bytes]) -> tuple[NetworkList, tuple[str, ...]]:
    """Return the network with the plugins of *files* after its own, by file name, and what is wrong with the files."""
    more: list[Plugin] = []
    faults: list[str] = []
    for name, raw in sorted(files.items()):
        try:
            document = _object(raw[:CONFIG_BYTES_MAX])
            more.append(_plugin(document))
        except ValueError as error:
            faults.append(f"CNI configuration {name!r}: {error}")
    if len(network.plugins) + len(more) > PLUGINS_MAX:
        return network, (*faults, f"CNI network {network.name!r}: more than {PLUGINS_MAX} plugins, so its own alone")
    return msgspec.structs.replace(network, plugins=(*network.plugins, *more)), tuple(faults)


def _version(document: Mapping[str, Any]) -> str:
    """Return the newest version that the configuration offers and that is known here. CNI 1.1.0 "cniVersions"."""
    offered = document.get("cniVersions", [])
    if not isinstance(offered, list):
        raise ValueError("'cniVersions' must be a list")
    known = [version for version in VERSIONS if version in [document.get("cniVersion"), *offered]]
    if not known:
        raise ValueError(f"cniVersion {document.get('cniVersion')!r}: wanted one of {', '.join(VERSIONS)}")
    return known[-1]


def _plugin(config: object) -> Plugin:
    if not isinstance(config, dict):
        raise ValueError("a plugin must be a JSON object")
    kind = config.get("type")
    if not isinstance(kind, str) or _NAME.fullmatch(kind) is None:
        raise ValueError(f"plugin type {kind!r}: wanted the name of a program, without '/'")
    declared = config.get("capabilities", {})
    if not isinstance(declared, dict):
        raise ValueError(f"'capabilities' of plugin {kind!r} must be an object")
    kept = {key: value for key, value in config.items() if key not in ("capabilities", "cniVersions")}
    capabilities = tuple(sorted(key for key, wanted in declared.items() if wanted is True))
    return Plugin(type=kind, config=kept, capabilities=capabilities)


def _some(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: document[key] for key in keys if key in document}


# --- what a plugin is told -------------------------------------------------------------------------------------------


def stdin_config(
    network: NetworkList, plugin: Plugin, runtime: Mapping[str, Any], result: Mapping[str, Any] | None
) -> bytes:
    """Return what *plugin* reads: its configuration, the capabilities that it declared, and the previous result."""
    config = {**plugin.config, "cniVersion": network.version, "name": network.name}
    config.pop("prevResult", None)
    told = {key: runtime[key] for key in plugin.capabilities if key in runtime}
    if told:
        config["runtimeConfig"] = told
    if result is not None:
        config["prevResult"] = result
    return msgspec.json.encode(config)


def capability_arguments(
    *, ports: Sequence[PortMapping], annotations: Mapping[str, str], aliases: Sequence[str], dns: DnsConfig | None
) -> dict[str, Any]:
    """Return what plugins that declare a capability are told about the pod. CNI CONVENTIONS.md.

    ``portMappings`` of published ports, ``bandwidth`` from the Kubernetes annotations, ``ips`` and ``mac`` from
    annotations of our own, ``aliases``, ``dns``, and the pod's annotations under the name that containerd introduced.

    Raises:
        InvalidRequest: an annotation says what cannot be.
    """
    found: dict[str, Any] = {"aliases": list(aliases), **_wishes(annotations)}
    published = [port for port in ports if port.host_port > 0]
    if published:
        found["portMappings"] = [
            {
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.value.lower(),
                "hostIP": port.host_ip,
            }
            for port in published
        ]
    if dns is not None:
        found["dns"] = {
            "servers": list(dns.servers),
            "searches": list(dns.searches),
            "options": list(dns.options),
        }
    limits = bandwidth_of(annotations)
    bandwidth: dict[str, int] = {}
    for direction, rate in (("ingress", limits.ingress), ("egress", limits.egress)):
        if rate:
            bandwidth |= {f"{direction}Rate": rate, f"{direction}Burst": BURST_BITS}
    if bandwidth:
        found["bandwidth"] = bandwidth
    if annotations:
        found["io.kubernetes.cri.pod-annotations"] = dict(annotations)
    return found


def _wishes(annotations: Mapping[str, str]) -> dict[str, Any]:
    """Return the addresses that a pod wants to have."""
    wanted: dict[str, Any] = {}
    if (ips := annotations.get(IPS_ANNOTATION)) is not None:
        try:
            wanted["ips"] = [str(ipaddress.ip_interface(one.strip())) for one in ips.split(",")[: ADDRESSES_MAX + 1]]
        except ValueError:
            wanted["ips"] = []
        if not 0 < len(wanted["ips"]) <= ADDRESSES_MAX:
            raise InvalidRequest(f"annotation {IPS_ANNOTATION} is {ips[:100]!r}: wanted '10.1.2.3/16,fd00::3/64'")
    if (mac := annotations.get(MAC_ANNOTATION)) is not None:
        if _MAC.fullmatch(mac) is None or int(mac[:2], 16) & 1:
            raise InvalidRequest(f"annotation {MAC_ANNOTATION} is {mac[:100]!r}: wanted a unicast address '02:…'")
        wanted["mac"] = mac
    return wanted


def collecting_config(network: NetworkList, plugin: Plugin, attached: Collection[tuple[str, str]]) -> bytes:
    """Return what *plugin* reads when it is asked to free what is none of the attachments: pod ids with interfaces.

    Under the names of the specification and of the library's first versions, as libcni does.
    """
    valid = [{"containerID": pod_id, "ifname": interface} for pod_id, interface in sorted(attached)]
    config = {**plugin.config, "cniVersion": network.version, "name": network.name}
    config |= {"cni.dev/valid-attachments": valid, "cni.dev/attachments": valid}
    config.pop("prevResult", None)
    return msgspec.json.encode(config)


def arguments(*, namespace: str, name: str, pod_id: str, uid: str) -> str:
    """Return ``CNI_ARGS``: who the pod is, as the plugins of Kubernetes expect it.

    Raises:
        InvalidRequest: a name could be taken for further arguments.
    """
    values = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": namespace,
        "K8S_POD_NAME": name,
        "K8S_POD_INFRA_CONTAINER_ID": pod_id,
        "K8S_POD_UID": uid,
    }
    for key, value in values.items():
        if any(character in value for character in ";=\0\n"):
            raise InvalidRequest(f"{key} {value[:100]!r} holds a ';', '=' or line end, which CNI cannot pass on")
    return ";".join(f"{key}={value}" for key, value in values.items())


# --- what a plugin answers -------------------------------------------------------------------------------------------


def parse_answer(network: NetworkList, plugin: str, raw: bytes) -> Answer:
    """Read the result of an ADD, and bring it into the network's version.

    Raises:
        EffectFailed: it is no result of a known version; the message names network and plugin.
    """
    doing = f"CNI network {network.name!r}: plugin {plugin!r} answered ADD with"
    document = _object(raw)
    if document is None:
        raise EffectFailed(f"{doing} no JSON object: {tail(raw[:200])!r}")
    version = document.get("cniVersion", network.version)
    if version not in VERSIONS:
        raise EffectFailed(f"{doing} version {str(version)[:40]!r}, wanted one of {', '.join(VERSIONS)}")
    ips, interfaces = document.get("ips") or [], document.get("interfaces") or []
    if not isinstance(ips, list) or not isinstance(interfaces, list) or len(ips) > ADDRESSES_MAX:
        raise EffectFailed(f"{doing} 'ips' or 'interfaces' that are no list, or more than {ADDRESSES_MAX} addresses")
    ours: list[str] = []
    others: list[str] = []
    entries: list[dict[str, Any]] = []
    for ip in ips:
        try:
            address = ipaddress.ip_interface(str(ip["address"])).ip
            if "%" in str(ip["address"]):  # a zone, which may be any text
                raise ValueError("a zone")
        except (ValueError, TypeError, KeyError):
            raise EffectFailed(f"{doing} an address that is none: {str(ip)[:200]!r}") from None
        entry = {key: value for key, value in ip.items() if key != "version"}
        entries.append(entry if network.version >= "1" else {**entry, "version": str(address.version)})
        (ours if _is_pods(ip.get("interface"), interfaces) else others).append(str(address))
    if ips:
        document["ips"] = entries
    document["cniVersion"] = network.version
    return Answer(addresses=tuple(ours or others), document=document)


def parse_result(raw: bytes | None) -> dict[str, Any] | None:
    """Read a result that was checked before it was stored; None when there is none, or it is damaged."""
    return None if raw is None else _object(raw)


def with_prefixes(addresses: Sequence[str], document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return *addresses* with the prefix lengths that a checked result gives them."""
    cidrs = [ipaddress.ip_interface(ip["address"]) for ip in document.get("ips") or []]
    return tuple(str(next((one for one in cidrs if str(one.ip) == address), address)) for address in addresses)


def _is_pods(index: object, interfaces: Sequence[object]) -> bool:
    """Say whether an address is on an interface inside the pod; one on no interface counts as such."""
    if not isinstance(index, int) or not 0 <= index < len(interfaces):
        return True
    interface = interfaces[index]
    return isinstance(interface, dict) and bool(interface.get("sandbox"))


def failure(network: NetworkList, plugin: str, command: str, exit_code: int, out: bytes, err: bytes) -> Exception:
    """Return the error for a plugin that failed, with its code, message and details, or else the end of its output."""
    doing = f"CNI network {network.name!r}: plugin {plugin!r} failed to {command}"
    document = _object(out)
    if document is None or not isinstance(document.get("msg", ""), str) or "code" not in document:
        return EffectFailed(f"{doing} with exit code {exit_code}: {tail(err or out) or 'it said nothing'}")
    words = tail(str(document.get("msg", ""))) or "no message"
    details = tail(str(document.get("details") or ""))
    text = f"{doing}: {words}{f' ({details})' if details else ''} [code {str(document['code'])[:20]}]"
    return (Unavailable if document["code"] == TRY_AGAIN else EffectFailed)(text)


def _object(raw: bytes) -> dict[str, Any] | None:
    if len(raw) > OUTPUT_BYTES_MAX:
        return None
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
