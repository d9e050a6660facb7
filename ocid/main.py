"""The composition root: the only file that knows adapters, actors and facade at once, and wires them.

``serve`` brings the daemon up in the order that the design asks for: the log first, then what it says, then the
comparison with the host, then the socket.
"""

from __future__ import annotations

import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import trio
import trio_asyncio

from ocid import __version__
from ocid.actors import housekeeping, policy, recovery
from ocid.actors.core import Core
from ocid.actors.erasing import Eraser
from ocid.actors.host import Host, Settings
from ocid.actors.plugins import NodeOfPlugins
from ocid.actors.rebuild import take_over
from ocid.actors.retaining import Bounds, Retainer
from ocid.actors.sealing import Sealer
from ocid.actors.session import SessionService
from ocid.actors.witnessing import Witnessing
from ocid.adapters.apparmor import AppArmor
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.checkpoint_archives import CheckpointArchives
from ocid.adapters.command import spawn
from ocid.adapters.endpoints import RegistrySettings
from ocid.adapters.erasures import ErasureFiles, wish_erasure
from ocid.adapters.handlers import HandlerConfig
from ocid.adapters.hostfiles import HostDirectory
from ocid.adapters.keys import KeyFiles, make_successor
from ocid.adapters.layers import LayerStore, staged_blobs
from ocid.adapters.local import SecretsInMemory, SystemClock, new_id, node_salt
from ocid.adapters.messages import write_messages
from ocid.adapters.network import Networks
from ocid.adapters.pause import PauseProcesses
from ocid.adapters.planner import HostPlanner
from ocid.adapters.process import Reaper
from ocid.adapters.registry import HttpRegistry
from ocid.adapters.runc import OciRuntime
from ocid.adapters.sandbox import PodSandboxes
from ocid.adapters.streams import HostStreams
from ocid.adapters.survey import HostSurvey
from ocid.adapters.unpack import Unpacker, UnpackLimits
from ocid.adapters.usage import CgroupUsages
from ocid.adapters.witnesses import witnesses_of
from ocid.cli import run as command_line
from ocid.cli.client import Client
from ocid.config import Config, Loaded
from ocid.cri import client, server
from ocid.cri.facade import Facade, Streaming
from ocid.domain.apparmor import UNCONFINED
from ocid.domain.configs import ProfileType
from ocid.domain.spec.inputs import Rlimit, SpecPolicy
from ocid.errors import OcidError, first_of
from ocid.events import node
from ocid.events.envelope import DAEMON
from ocid.ids import PodId, digest_of
from ocid.journal import residence
from ocid.journal.opening import Opened, open_or_quarantine
from ocid.journal.owner import LastLife
from ocid.journal.writer import Writer
from ocid.nri import endpoint
from ocid.nri.service import NriPlugins, plugins_of
from ocid.ports.archives import Archives, NoArchives
from ocid.projections.view import View, schema_hash
from ocid.streaming.limits import Limits
from ocid.streaming.server import Server as StreamingServer
from ocid.streaming.tls import server_tls
from ocid.streaming.tokens import Tokens

log = logging.getLogger("ocid")

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
READ_CHUNK = 2_000


async def serve(loaded: Loaded) -> None:
    """Run the daemon until SIGTERM or SIGINT. Containers go on without it.

    Raises:
        OcidError: it cannot start; the message says what to do.
    """
    config = loaded.config
    root, run = Path(config.root), Path(config.run)
    for directory in (root, run):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    os.chdir(run)  # no directory of whoever started us is held, or written to by what we start
    listener = server.bind(Path(config.socket))
    try:
        opened = await trio.to_thread.run_sync(_open_log, config)
    except BaseException:
        server.unbind(config.socket)
        raise
    for warning in opened.warnings:
        log.warning("%s", warning)
    stopped_at_ns: int | None = None
    stop = trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, stop)
            nursery.start_soon(Reaper().serve)
            await _serve_log(loaded, opened, listener, stop)
            nursery.cancel_scope.cancel()
        stopped_at_ns = time.time_ns()
    finally:
        server.unbind(config.socket)
        opened.close(stopped_at_ns=stopped_at_ns)


def _open_log(config: Config) -> Opened:
    boot_id = BOOT_ID.read_text().strip()
    return open_or_quarantine(Path(config.root) / "log", boot_id=boot_id, map_bytes=config.log.map_bytes)


async def _serve_log(loaded: Loaded, opened: Opened, listener: socket.socket, stop: trio.Event) -> None:
    """Fold the log, open the host, recover, serve until *stop*; then everything ends before the log does."""
    config, rules = loaded.config, policy.configured(loaded.config)
    writer = Writer(opened.store, SystemClock(), scrub=policy.scrubber(rules, node_salt(Path(config.root))))
    view = _fold(opened)
    writer.subscribe(view.apply)
    sealer = _sealer(config, view, writer, opened)
    host = await _open_host(config, writer)
    async with trio_asyncio.open_loop(), trio.open_nursery() as log_nursery:
        await log_nursery.start(writer.run)
        async with trio.open_nursery() as actors:
            core = Core(host, view, actors)
            facade = _facade(core, config, opened)
            writer.subscribe(lambda envelope: facade.publish((envelope,)))
            witnesses = witnesses_of(config.checkpoints.push, host.clock)
            facade.witnessing = Witnessing(witnesses, host.clock, core.recorder.record)
            sealer.published.append(facade.witnessing.publish)
            actors.start_soon(core.recorder.run)
            actors.start_soon(host.confinement.ensure)
            await actors.start(server.serve, facade, listener)
            await _serve_streams(facade, config, actors)
            await _begin_epoch(core, opened, config)
            await take_over(opened.quarantined, writer)
            await sealer.begin()
            await recovery.recover(core, rebooted=_rebooted(opened))
            await recovery.collect_orphans(core)
            if isinstance(host.plugins, NriPlugins):
                await actors.start(endpoint.serve, host.plugins, NodeOfPlugins(core), spawn)
            facade.open = True
            opened.settled()
            residence.let_go(Path(config.root) / "log")
            gc.collect()
            gc.freeze()  # what a start makes stays; later collections need not look at it
            gc.set_threshold(10_000, 20, 20)
            log.info("serving on %s", config.socket)
            actors.start_soon(facade.sampler.run)
            actors.start_soon(facade.callers.measure)
            actors.start_soon(host.network.watch)
            actors.start_soon(recovery.check_networks, core)
            actors.start_soon(sealer.run)
            actors.start_soon(facade.witnessing.run)
            actors.start_soon(Eraser(writer, sealer, ErasureFiles(Path(config.root)), host.salts, view).run)
            actors.start_soon(housekeeping.keep, view, writer, Path(config.root) / "log")
            actors.start_soon(_retainer(config, writer, sealer).run)
            await stop.wait()
            facade.open = False
            await core.exec_effects.probes.stop()
            actors.cancel_scope.cancel()
        await core.recorder.append(node.Stopped(reason="asked to stop"))
        await sealer.seal("stop")
        await facade.witnessing.finish()
        await housekeeping.snapshot(view, writer)
        log_nursery.cancel_scope.cancel()


def _facade(core: Core, config: Config, opened: Opened) -> Facade:
    return Facade(
        core=core,
        config_json=policy.config_document(config, core.host.settings.redaction, core.host.settings.salt),
        warnings=_warnings(opened),
        usual_peers=config.audit.usual_peers,
        stats_period_s=config.stats.period_s,
    )


def _retainer(config: Config, writer: Writer, sealer: Sealer) -> Retainer:
    root, log_ = Path(config.root), config.log
    planner = HostPlanner(root / "log", root / "archive" if log_.archive else None, Path(config.run))
    bounds = Bounds(
        max_bytes=log_.max_bytes, max_age_days=log_.max_age_days, archives_max_bytes=log_.archives_max_bytes
    )
    return Retainer(writer, writer, sealer, planner, bounds, SystemClock())


async def _serve_streams(facade: Facade, config: Config, nursery: trio.Nursery) -> None:
    """Listen for the clients of exec, attach and port-forward."""
    wanted, core = config.streaming, facade.core
    tokens = Tokens(secrets.token_bytes, trio.current_time, outstanding_max=wanted.sessions_max)
    core.session_effects.streams_s = wanted.creation_timeout_s
    limits = Limits(creation_s=wanted.creation_timeout_s, idle_s=wanted.idle_timeout_s, sessions=wanted.sessions_max)
    tls = server_tls(wanted.tls_cert, wanted.tls_key, wanted.tls_client_ca)
    streams = StreamingServer(SessionService(core.session_effects, core.sessions, tokens), limits=limits, tls=tls)
    host, port = await nursery.start(streams.serve, wanted.address, wanted.port)
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    base_url = f"{'http' if tls is None else 'https'}://{authority}"
    facade.streaming = Streaming(base_url=base_url, tokens=tokens, sessions_max=wanted.sessions_max)


def _fold(opened: Opened) -> View:
    """Return the view as of the log's end, begun from a snapshot where one fits."""
    store = opened.store
    view, snapshot = View(store.document), store.snapshot(housekeeping.SNAPSHOT, bytes.fromhex(schema_hash()))
    if snapshot is not None:
        try:
            view.restore(snapshot.state)
        except msgspec.MsgspecError as error:
            log.warning("the snapshot as of seq %d cannot be read (%s); folding the whole log", snapshot.seq, error)
            view = View(store.document)
    while envelopes := store.read(view.seq + 1, READ_CHUNK):
        for envelope in envelopes:
            view.apply(envelope)
    return view


async def _open_host(config: Config, writer: Writer) -> Host:
    """Find tools, cgroups and network, and bundle them."""
    root, run = Path(config.root), Path(config.run)
    cgroups = Cgroups(config.cgroup.driver)
    handlers = {name: HandlerConfig(path=one.path) for name, one in config.runtime.handlers.items()}
    runtime = await OciRuntime.open(run, cgroups, handlers, default=config.runtime.default)
    apparmor = "" if config.security.apparmor_default == UNCONFINED else config.security.apparmor_default
    settings = Settings(
        root=root,
        run=run,
        default_cgroup_parent=config.cgroup.parent,
        cgroup_driver=cgroups.driver.value,
        spec_policy=SpecPolicy(
            default_capabilities=config.security.default_capabilities,
            seccomp_when_absent=ProfileType(config.security.seccomp_when_absent),
            apparmor_default=apparmor,
            rlimits=tuple(Rlimit(kind=k, soft=s, hard=h) for k, (s, h) in config.containers.rlimits.items()),
            pids_limit=config.containers.pids_limit,
            env=config.containers.env,
            annotation_prefixes=config.containers.annotation_prefixes,
        ),
        redaction=policy.configured(config),
        salt=node_salt(root),
        create_missing_mounts=config.containers.create_missing_mounts,
        block_io_file=config.blockio.config_file,
        coalesce_probes=config.audit.coalesce_probes,
        pull_layers_max=config.images.download_parallel + 2 * config.images.unpack_parallel,
    )
    registries = {name: RegistrySettings(**msgspec.structs.asdict(one)) for name, one in config.registries.items()}
    layers = LayerStore(root, Unpacker(limits=_unpack_limits(config), parallel=config.images.unpack_parallel))
    return Host(
        settings=settings,
        clock=SystemClock(),
        journal=writer,
        secrets=SecretsInMemory(),
        sandboxes=PodSandboxes(run / "pods", cgroups, PauseProcesses(run / "pause", runtime, cgroups)),
        network=Networks(
            cni_conf_dir=Path(config.network.cni_conf_dir),
            cni_bin_dirs=[Path(one) for one in config.network.cni_bin_dirs],
            cni_state_dir=root / "cni",
            handler_conf_dirs=config.runtime.cni_conf_dirs(),
            further=config.network.further,
            bridge=config.network.bridge,
            subnets=config.network.subnets,
        ),
        runtime=runtime,
        streams=HostStreams(runtime, run / "tmp"),
        layers=layers,
        registry=HttpRegistry(
            registries, parallel=config.images.download_parallel, stall_s=config.images.no_progress_timeout_s
        ),
        usage=CgroupUsages(cgroups),
        files=HostDirectory(cdi_dirs=config.containers.cdi_spec_dirs),
        new_id=new_id,
        plugins=plugins_of(config.nri),
        archives=_archives(config, layers),
        confinement=AppArmor(run, apparmor, enabled=runtime.host_facts().apparmor_enabled),
    )


def _unpack_limits(config: Config) -> UnpackLimits:
    return UnpackLimits(bytes_max=config.images.layer_bytes_max, entries_max=config.images.layer_entries_max)


def _archives(config: Config, layers: LayerStore) -> Archives:
    if not config.checkpoint.restore:
        return NoArchives()
    return CheckpointArchives(Path(config.root, "empty"), layers.directory, _unpack_limits(config))


async def _begin_epoch(core: Core, opened: Opened, config: Config) -> None:
    """Put the first events of this life into the log."""
    if opened.quarantined is not None:
        aside = opened.quarantined
        event = node.LogQuarantined(
            path=str(aside.path),
            reason=aside.reason,
            last_good_seq=aside.last_good_seq,
            last_good_hash=aside.last_good_hash.hex(),
        )
        await core.recorder.append(event)
    settings = core.host.settings
    document = policy.config_document(config, settings.redaction, settings.salt)
    started = node.Started(
        epoch=opened.store.epoch,
        ocid_version=__version__,
        pid=os.getpid(),
        kernel=os.uname().release,
        cgroup_mode="v2" if core.host.runtime.host_facts().cgroup_version == 2 else "v1",
        cgroup_driver=settings.cgroup_driver,
        config=digest_of(document),
        after_clean_stop=opened.after_clean_stop,
        rebooted=_rebooted(opened),
    )
    await core.recorder.append(started, DAEMON, (document,))
    await policy.record(core.recorder, core.view.node, settings.redaction, settings.salt)


def _sealer(config: Config, view: View, writer: Writer, opened: Opened) -> Sealer:
    """Return who signs for the log; a new log is named after the node, and unlike any before it."""
    keys = KeyFiles(Path(config.root) / "keys")
    for warning in keys.warnings:
        log.error("%s", warning)
        opened.warnings.append(warning)
    sealer = Sealer(writer, view.sealing, keys, origin=f"ocid/{os.uname().nodename}/{secrets.token_hex(6)}")
    writer.subscribe(sealer.apply)
    return sealer


def _warnings(opened: Opened) -> tuple[str, ...]:
    """Return what CRI Status shows of the log's condition."""
    if opened.quarantined is None:
        return tuple(opened.warnings)
    aside = opened.quarantined
    return (*opened.warnings, f"the event log was damaged ({aside.reason}) and set aside at {aside.path}")


def _rebooted(opened: Opened) -> bool:
    """Say whether the machine has booted since the log, or the damaged one before it, was written."""
    return opened.rebooted or (opened.quarantined is not None and opened.last_life is LastLife.POWER_LOST)


async def _stop_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()


class Wiring:
    """What the command line needs of the parts that only this file may put together."""

    survey = HostSurvey()

    def serve(self, loaded: Loaded) -> int:
        """Run the daemon until it is told to stop, and return its exit code."""
        write_messages(loaded.config.log_level, policy.configured(loaded.config))
        try:
            trio.run(serve, loaded)
        except* OcidError as group:
            raise first_of(group) from None
        return 0

    def make_successor(self, loaded: Loaded) -> None:
        """Make the key that is to sign for the log after the one that does."""
        make_successor(Path(loaded.config.root) / "keys")

    def wish_erasure(self, loaded: Loaded, pod_id: PodId, reason: str) -> Path:
        """Ask the daemon to erase a pod's confidential documents."""
        return wish_erasure(Path(loaded.config.root), pod_id, reason)

    def connect(self, loaded: Loaded) -> AbstractAsyncContextManager[Client]:
        """Open a connection to the daemon."""
        root = Path(loaded.config.root)
        return client.connect(Path(loaded.config.socket), lambda: staged_blobs(root))


def main() -> int:
    """Run one ``ocid`` command and return its exit status."""
    return command_line.main(Wiring())


if __name__ == "__main__":
    sys.exit(main())
