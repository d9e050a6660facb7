"""The configuration: one TOML file with drop-ins beside it, every value optional, and where each value came from.

``/etc/ocid/ocid.toml`` is read first, then ``/etc/ocid/ocid.toml.d/*.toml`` in name order, then the command line; a
later one wins key by key, a list as a whole. A key that does not exist, or a value that cannot be, is refused with the
file, the key and what was wanted: a setting that is silently ignored is worse than a daemon that does not start.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec

from ocid import config_audit, config_files, config_redaction, config_witness
from ocid.classes import DataClass, Sensitive
from ocid.config_audit import Audit
from ocid.config_checkpoint import Checkpoint
from ocid.config_files import Key, Tree
from ocid.config_redaction import Redaction

DEFAULT_PATH: Final = Path("/etc/ocid/ocid.toml")
DEFAULT: Final = "default"
COMMAND_LINE: Final = "command line"
SOCKET_BYTES_MAX: Final = 107  # unix(7): sun_path holds 108 bytes with the zero
KNOWN_RUNTIMES: Final = ("runc", "crun")  # handlers without a line of configuration, where they are found on PATH
_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has runc; not in the PATH of a plain user

Count = Annotated[int, msgspec.Meta(ge=1, le=64)]
Seconds = Annotated[int, msgspec.Meta(ge=1, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 46)]
Rlimit = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the file."""

    DATA: ClassVar[DataClass] = DataClass.PUBLIC  # where a field does not say otherwise


class Handler(Section, frozen=True, kw_only=True):
    """[runtime.handlers.NAME] One OCI runtime, under the name that pods ask for (CRI runtime_handler)."""

    path: str = ""  # absolute path of the program; empty: the handler's name is looked up on PATH
    cni_conf_dir: str = ""  # of this handler's pods alone; empty: they are on the node's network like all others


class Runtime(Section, frozen=True, kw_only=True):
    """[runtime] Who runs containers."""

    default: str = "runc"  # the handler of pods that ask for none
    handlers: dict[str, Handler] = {}  # by name; runc and crun are known where they are found on PATH

    def cni_conf_dirs(self) -> dict[str, Path]:
        """Return the CNI configuration directories of the handlers that have their own, "" for the default one."""
        found = {name: Path(one.cni_conf_dir) for name, one in self.handlers.items() if one.cni_conf_dir}
        return {**found, "": found[self.default]} if self.default in found else found


class Cgroup(Section, frozen=True, kw_only=True):
    """[cgroup] Who makes control groups, and where."""

    driver: Literal["auto", "cgroupfs", "systemd"] = "auto"  # auto: systemd where it runs and the hierarchy is v2
    parent: str = "/ocid"  # of pods that name no parent: a path, or a "….slice"


class Network(Section, frozen=True, kw_only=True):
    """[network] The pod network: CNI where a conflist lies in cni_conf_dir, else the built-in bridge."""

    cni_conf_dir: str = "/etc/cni/net.d"  # the first *.conflist by name counts
    cni_bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")  # where plugins are looked for, in this order
    further: tuple[str, ...] = ()  # names of CNI networks that pods may ask for beside the first; "*": all there are
    bridge: str = "ocid0"  # the built-in network's interface; each daemon on a machine needs its own
    subnets: tuple[str, ...] = ("10.85.0.0/16", "fd00:85::/64")  # pod addresses: one IPv4 CIDR, one IPv6, or both


class Images(Section, frozen=True, kw_only=True):
    """[images] Pulling and unpacking. The limits keep a hostile image from filling disk or memory."""

    download_parallel: Count = 3  # layers of one pull that are downloaded at once
    unpack_parallel: Count = 2  # worker processes that unpack layers, of all pulls together
    no_progress_timeout_s: Seconds = 30  # seconds without a new byte after which a download is tried anew or given up
    layer_bytes_max: Bytes = 64 << 30  # bytes that one layer may unpack to
    layer_entries_max: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)] = 5_000_000  # files in one layer


class Registry(Section, frozen=True, kw_only=True):
    """[registries."HOST[:PORT]"] How one registry is reached."""

    mirrors: tuple[str, ...] = ()  # URLs asked first, in this order: "http://127.0.0.1:5000", "https://mirror/path"
    plain_http: bool = False  # speak HTTP without TLS to the registry itself; a mirror's URL has its own scheme
    insecure_tls: bool = False  # accept any certificate, of mirrors too
    ca_file: str = ""  # PEM file of further certificate authorities, absolute path


class Log(Section, frozen=True, kw_only=True):
    """[log] The event log in ROOT/log."""

    map_bytes: Annotated[int, msgspec.Meta(ge=64 << 20, le=1 << 44)] = 16 << 30  # address space to reserve, not disk
    max_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 44)] = 2 << 30  # of disk; more is trimmed; 0: no end
    max_age_days: Annotated[int, msgspec.Meta(ge=0, le=36_500)] = 0  # older records are archived and trimmed; 0: none
    archive: bool = True  # to ROOT/archive, before records go; false: they are gone for good
    archives_max_bytes: Annotated[int, msgspec.Meta(ge=0, le=1 << 50)] = 8 << 30  # of all archives; 0: no end


class Stats(Section, frozen=True, kw_only=True):
    """[stats] What containers use."""

    period_s: Annotated[int, msgspec.Meta(ge=1, le=300)] = 10  # seconds between two looks: CPU rates, networks, disks


class Streaming(Section, frozen=True, kw_only=True):
    """[streaming] Where the kubelet opens the sessions of exec, attach and port-forward."""

    address: str = "127.0.0.1"  # IPv4 or IPv6 address to listen on; other than loopback only with TLS
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0  # 0: any free one, told in each URL
    tls_cert: str = ""  # PEM file, absolute path; with tls_key it makes the URLs https
    tls_key: str = ""  # PEM file, absolute path
    tls_client_ca: str = ""  # PEM file, absolute path; clients must then show a certificate of these authorities
    idle_timeout_s: Seconds = 4 * 3600  # seconds of silence after which a session is closed
    creation_timeout_s: Seconds = 30  # seconds that a client has to open its streams
    sessions_max: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 256  # open or waiting for their clients


class Containers(Section, frozen=True, kw_only=True):
    """[containers] What containers get that neither the kubelet nor their image asks for."""

    env: tuple[Sensitive, ...] = ()  # "NAME=value", weaker than the image's
    rlimits: dict[str, tuple[Rlimit, Rlimit]] = {}  # RLIMIT_NOFILE = [soft, hard]
    pids_limit: Annotated[int, msgspec.Meta(ge=0, le=1 << 22)] = 0  # processes in one container; 0: the pod's limit
    annotation_prefixes: tuple[str, ...] = ()  # annotations passed on to the OCI runtime
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")  # of devices by name (CDI); a later one wins
    create_missing_mounts: bool = True  # a bind mount's missing source becomes a directory instead of an error


class Security(Section, frozen=True, kw_only=True):
    """[security] How containers are confined by default."""

    seccomp_when_absent: Literal["Unconfined", "RuntimeDefault"] = "Unconfined"  # for containers that name no profile
    apparmor_default: str = "ocid-default"  # ours; another must be loaded by somebody; "unconfined": none
    default_capabilities: tuple[str, ...] = (
        "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
        "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
        "CAP_AUDIT_WRITE",
    )  # fmt: skip


class Blockio(Section, frozen=True, kw_only=True):
    """[blockio] Classes of block I/O that pods and containers can ask for by annotation."""

    config_file: str = ""  # YAML of classes as goresctrl has it, absolute path; empty: there are no classes


class Nri(Section, frozen=True, kw_only=True):
    """[nri] The Node Resource Interface: plugins that watch and adjust pods and containers, with all their rights."""

    enabled: bool = False
    socket: str = "/var/run/nri/nri.sock"  # where plugins connect
    plugin_dir: str = "/opt/nri/plugins"  # programs NN-name that the daemon starts
    config_dir: str = "/etc/nri/conf.d"  # NN-name.conf or name.conf, handed to the plugin
    registration_timeout_s: Seconds = 5  # for a plugin to say who it is
    request_timeout_s: Seconds = 2  # for one answer; a plugin that takes longer is disconnected
    disable_external: bool = False  # no socket: only plugins of plugin_dir


class Config(Section, frozen=True, kw_only=True):
    """Everything that can be configured."""

    root: str = "/var/lib/ocid"  # what outlives a reboot: log, images, writable layers
    run: str = "/run/ocid"  # what does not: bundles, pinned namespaces, sockets
    socket: str = "/run/ocid/ocid.sock"  # the CRI socket; where only *run* is set: RUN/ocid.sock
    log_level: Literal["debug", "info", "warning", "error"] = "info"  # of messages on stderr; the event log has all
    runtime: Runtime = Runtime()
    cgroup: Cgroup = Cgroup()
    network: Network = Network()
    images: Images = Images()
    registries: dict[str, Registry] = {}
    log: Log = Log()
    stats: Stats = Stats()
    streaming: Streaming = Streaming()
    containers: Containers = Containers()
    security: Security = Security()
    audit: Audit = Audit()
    redaction: Redaction = Redaction()
    checkpoint: Checkpoint = Checkpoint()
    checkpoints: config_witness.Checkpoints = config_witness.Checkpoints()
    blockio: Blockio = Blockio()
    nri: Nri = Nri()

    @property
    def log_dir(self) -> Path:
        """The directory of the event log."""
        return Path(self.root, "log")


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration in force."""

    config: Config
    sources: dict[str, str]  # key, as "network.bridge" → "default", the path of a file, or "command line"
    files: tuple[str, ...] = ()  # that were read, in order

    def values(self) -> list[tuple[str, Any, str]]:
        """Return every key with its value and where that came from, in the order of the tables above."""
        named = ((config_files.dotted(key), value) for key, value in config_files.leaves(self.config))
        return [(key, value, self.sources[key]) for key, value in named]


def load(path: Path | str | None = None, overrides: Mapping[str, str | None] | None = None) -> Loaded:
    """Read the configuration.

    Args:
        path: the file, which must exist then; None for ``DEFAULT_PATH``, which need not.
        overrides: from the command line, by key ("root", "network.bridge"); None stands for "not given". Paths of
            *root*, *run* and *socket* may be relative there.
    Raises:
        InvalidRequest: a file is missing, unreadable or not TOML; a key is unknown; a value cannot be.
    """
    tree = Tree(Config)
    files = config_files.files(DEFAULT_PATH if path is None else Path(path), must_exist=path is not None)
    for file in files:
        tree.add(config_files.parse(file), str(file))
    for key, value in (overrides or {}).items():
        if value is not None:
            inner: Any = os.path.abspath(value) if value and key in ("root", "run", "socket") else value
            for part in reversed(key.split(".")):
                inner = {part: inner}
            tree.add(inner, COMMAND_LINE)
    if "run" in tree.values and "socket" not in tree.values:
        tree.add({"socket": os.path.join(tree.values["run"], "ocid.sock")}, tree.sources["run",])
    _find_runtimes(tree)
    config = msgspec.convert(tree.values, Config)
    for at, problem in _problems(config):
        raise config_files.refusal(tree.source(at) or DEFAULT, at, problem)
    sources = {config_files.dotted(key): tree.sources.get(key, DEFAULT) for key, _ in config_files.leaves(config)}
    return Loaded(config=config, sources=sources, files=tuple(map(str, files)))


def _find_runtimes(tree: Tree) -> None:
    """Fill in the paths of handlers that have none, and add the runtimes that everybody knows."""
    handlers = tree.values.setdefault("runtime", {}).setdefault("handlers", {})
    search = os.pathsep.join(filter(None, (os.environ.get("PATH"), _SBIN)))
    for name in dict.fromkeys((*KNOWN_RUNTIMES, *handlers)):
        if not handlers.get(name, {}).get("path") and _HANDLER.fullmatch(name):
            found = shutil.which(name, path=search)
            if found is not None:
                handlers[name] = {"path": os.path.abspath(found)}
                tree.sources.pop(("runtime", "handlers", name, "path"), None)


# --- what values mean ------------------------------------------------------------------------------------------------

_HANDLER: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?")  # a RuntimeClass handler is a DNS label
_BRIDGE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,14}")  # IFNAMSIZ is 16; an nftables table has it, too
_REGISTRY: Final = re.compile(r"(?:[a-zA-Z0-9.-]{1,253}|\[[0-9a-fA-F:]{2,45}\])(?::[0-9]{1,5})?")
_RLIMIT: Final = re.compile(r"RLIMIT_[A-Z]{2,12}")
_CAPABILITY: Final = re.compile(r"CAP_[A-Z_]{2,30}")
_PREFIX_BITS: Final = {4: (8, 29), 6: (8, 125)}  # wider is a typing error, narrower leaves no pods; see domain.ipam

Problem = tuple[Key, str]
_path: Final = config_files.path_problems


def _problems(config: Config) -> Iterator[Problem]:
    """Yield what no type can say about *config*, the key first."""
    for name in ("root", "run", "socket"):
        yield from _path((name,), getattr(config, name))
        if getattr(config, name) == "/":
            yield (name,), "wanted a directory of its own, is '/'"
    if config.root == config.run:
        at = "run" if config.root == Config().root else "root"
        yield (at,), f"wanted another directory than {'root' if at == 'run' else 'run'}, which is '{config.run}' too"
    if len(config.socket.encode()) > SOCKET_BYTES_MAX:
        yield ("socket",), f"wanted at most {SOCKET_BYTES_MAX} bytes (unix(7)), has {len(config.socket.encode())}"
    for name in ("socket", "plugin_dir", "config_dir"):
        yield from _path(("nri", name), getattr(config.nri, name))
    if len(config.nri.socket.encode()) > SOCKET_BYTES_MAX:
        yield ("nri", "socket"), f"wanted at most {SOCKET_BYTES_MAX} bytes, has {len(config.nri.socket.encode())}"
    if config.blockio.config_file:
        yield from _path(("blockio", "config_file"), config.blockio.config_file)
    yield from _runtime_problems(config.runtime)
    if not re.fullmatch(r"[A-Za-z0-9:_.-]+\.slice", config.cgroup.parent):
        yield from _path(("cgroup", "parent"), config.cgroup.parent)
    yield from _network_problems(config.network)
    for name, registry in config.registries.items():
        yield from _registry_problems(("registries", name), name, registry)
    yield from _container_problems(config)
    yield from _streaming_problems(config.streaming)
    yield from config_audit.problems(config.audit)
    yield from config_witness.problems(config.checkpoints)


def _runtime_problems(runtime: Runtime) -> Iterator[Problem]:
    at = ("runtime", "handlers")
    for name, handler in runtime.handlers.items():
        if not _HANDLER.fullmatch(name):
            yield (*at, name), "wanted a name of lower-case letters, digits, '-' and '.', at most 63"
        elif not handler.path:
            yield (*at, name, "path"), f"not set, and there is no {name!r} on PATH: install it, or set its path"
        yield from _path((*at, name, "path"), handler.path)
        if handler.cni_conf_dir:
            yield from _path((*at, name, "cni_conf_dir"), handler.cni_conf_dir)
    if runtime.default not in runtime.handlers and runtime.default not in KNOWN_RUNTIMES:
        known = ", ".join(sorted({*runtime.handlers, *KNOWN_RUNTIMES}))
        yield ("runtime", "default"), f"wanted one of the handlers {known}, is {config_files.shown(runtime.default)}"


def _network_problems(network: Network) -> Iterator[Problem]:
    yield from _path(("network", "cni_conf_dir"), network.cni_conf_dir)
    yield from _distinct(("network", "cni_bin_dirs"), network.cni_bin_dirs)
    for directory in network.cni_bin_dirs:
        yield from _path(("network", "cni_bin_dirs"), directory)
    yield from _distinct(("network", "further"), network.further)
    if not _BRIDGE.fullmatch(network.bridge) or network.bridge in (".", "..", "all", "default", "lo"):
        shown = config_files.shown(network.bridge)
        yield ("network", "bridge"), f"wanted an interface name of at most 15 characters, is {shown}"
    versions = []
    for text in network.subnets:
        try:
            subnet = ipaddress.ip_network(text)
        except ValueError as error:
            yield ("network", "subnets"), f"wanted CIDRs such as '10.85.0.0/16': {config_files.shown(str(error))}"
            return
        low, high = _PREFIX_BITS[subnet.version]
        if "/" not in text or not low <= subnet.prefixlen <= high:
            yield ("network", "subnets"), f"wanted a prefix length from {low} to {high}, is {config_files.shown(text)}"
        if subnet.is_multicast or subnet.is_loopback or subnet.is_unspecified or subnet.is_link_local:
            yield ("network", "subnets"), f"wanted unicast addresses, is {config_files.shown(text)}"
        versions.append(subnet.version)
    if not versions or len(set(versions)) != len(versions):
        yield ("network", "subnets"), f"wanted one IPv4 subnet, one IPv6 subnet, or one of each, has {len(versions)}"


def _registry_problems(at: Key, name: str, registry: Registry) -> Iterator[Problem]:
    if not _REGISTRY.fullmatch(name):
        yield at, "wanted HOST or HOST:PORT, without scheme or path"
    yield from _distinct((*at, "mirrors"), registry.mirrors)
    for mirror in registry.mirrors:
        if "@" in mirror:
            yield (*at, "mirrors"), "credentials do not belong here: the kubelet sends them with the pull"
        elif not config_files.is_url(mirror):
            shown = config_files.shown(mirror)
            yield (*at, "mirrors"), f"wanted URLs such as 'https://mirror.example/path', is {shown}"
    if registry.ca_file:
        yield from _path((*at, "ca_file"), registry.ca_file)


def _streaming_problems(streaming: Streaming) -> Iterator[Problem]:
    try:
        loopback = ipaddress.ip_address(streaming.address).is_loopback
    except ValueError:
        yield ("streaming", "address"), f"wanted an IP address, is {config_files.shown(streaming.address)}"
        return
    for name in ("tls_cert", "tls_key", "tls_client_ca"):
        if path := getattr(streaming, name):
            yield from _path(("streaming", name), path)
    if bool(streaming.tls_cert) != bool(streaming.tls_key):
        unset = "tls_key" if streaming.tls_cert else "tls_cert"
        yield ("streaming", unset), "not set: wanted tls_cert and tls_key together, or neither"
    elif streaming.tls_client_ca and not streaming.tls_cert:
        yield ("streaming", "tls_client_ca"), "set without tls_cert and tls_key: there is no TLS to check clients in"
    if not loopback and not streaming.tls_cert:
        address = config_files.shown(streaming.address)
        yield ("streaming", "address"), f"wanted a loopback address unless tls_cert and tls_key are set, is {address}"


def _container_problems(config: Config) -> Iterator[Problem]:
    for variable in config.containers.env:
        name, equals, _ = variable.partition("=")
        if not name or not equals or "\0" in variable:
            yield ("containers", "env"), f"wanted 'NAME=value', is {config_files.shown(variable)}"
    for kind, (soft, hard) in config.containers.rlimits.items():
        if not _RLIMIT.fullmatch(kind):
            yield ("containers", "rlimits", kind), "wanted a name such as RLIMIT_NOFILE"
        if soft > hard:
            yield ("containers", "rlimits", kind), f"wanted soft ≤ hard, is [{soft}, {hard}]"
    yield from _distinct(("containers", "cdi_spec_dirs"), config.containers.cdi_spec_dirs)
    for directory in config.containers.cdi_spec_dirs:
        yield from _path(("containers", "cdi_spec_dirs"), directory)
    yield from _distinct(("security", "default_capabilities"), config.security.default_capabilities)
    for name in config.security.default_capabilities:
        if not _CAPABILITY.fullmatch(name):
            yield ("security", "default_capabilities"), f"wanted names such as CAP_CHOWN, is {config_files.shown(name)}"
    if not (apparmor := config.security.apparmor_default) or not apparmor.isprintable():
        yield ("security", "apparmor_default"), f"wanted a profile or 'unconfined', is {config_files.shown(apparmor)}"
    for key, problem in config_redaction.problems(config.redaction):
        yield ("redaction", key), problem


def _distinct(at: Key, values: Sequence[str]) -> Iterator[Problem]:
    if twice := next((value for value in values if values.count(value) > 1), None):
        yield at, f"{config_files.shown(twice)} is there twice"
