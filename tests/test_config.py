"""The configuration: what is read, what wins, what is refused and how, and that the shipped file tells the truth."""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ocid import config, config_files
from ocid.config import COMMAND_LINE, DEFAULT, Config, Registry, load
from ocid.domain import apparmor, ipam
from ocid.domain.spec.capabilities import DEFAULT_CAPABILITIES
from ocid.errors import InvalidRequest

PACKAGING = Path(__file__).parents[1] / "packaging"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ocid.toml"


def refused(file: Path, text: str) -> str:
    """Return why *text* is refused, without the file's name."""
    file.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        load(file)
    message = caught.value.message
    assert message.startswith(f"{file}: ")
    assert message.isprintable()
    return message.removeprefix(f"{file}: ")


# --- what wins -------------------------------------------------------------------------------------------------------


def test_without_any_file_the_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.toml")

    loaded = load()

    assert (loaded.config.root, loaded.config.run) == ("/var/lib/ocid", "/run/ocid")
    assert loaded.config.socket == "/run/ocid/ocid.sock"
    assert loaded.config.log_dir == Path("/var/lib/ocid/log")
    assert set(loaded.sources.values()) == {DEFAULT}
    assert loaded.files == ()


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        load(tmp_path / "none.toml")


def test_drop_ins_win_in_name_order_and_the_command_line_wins_last(file: Path) -> None:
    file.write_text('root = "/a"\nlog_level = "debug"\n[network]\nbridge = "br1"\n[images]\ndownload_parallel = 7\n')
    drop_ins = file.with_name("ocid.toml.d")
    drop_ins.mkdir()
    (drop_ins / "20-last.toml").write_text('[network]\nbridge = "br3"\n')
    (drop_ins / "10-first.toml").write_text('root = "/b"\n[network]\nbridge = "br2"\n')
    (drop_ins / "30-ignored.toml.bak").write_text("not toml")
    (drop_ins / ".hidden.toml").write_text("not toml")

    loaded = load(file, {"root": "/c", "run": None, "socket": None})

    assert (loaded.config.root, loaded.config.network.bridge, loaded.config.images.download_parallel) == (
        "/c",
        "br3",
        7,
    )
    assert loaded.sources["root"] == COMMAND_LINE
    assert loaded.sources["network.bridge"] == str(drop_ins / "20-last.toml")
    assert loaded.sources["images.download_parallel"] == str(file)
    assert loaded.sources["network.subnets"] == DEFAULT
    assert [Path(name).name for name in loaded.files] == ["ocid.toml", "10-first.toml", "20-last.toml"]


def test_drop_ins_hold_without_the_file_beside_them(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", file)
    file.with_name("ocid.toml.d").mkdir()
    (file.with_name("ocid.toml.d") / "a.toml").write_text('log_level = "error"\n')

    assert load().config.log_level == "error"


def test_files_add_to_one_registry_key_by_key_and_replace_lists(file: Path) -> None:
    file.write_text('[registries."registry.k8s.io"]\nmirrors = ["http://m1:5000", "http://m2"]\nplain_http = true\n')
    file.with_name("ocid.toml.d").mkdir()
    drop_in = file.with_name("ocid.toml.d") / "a.toml"
    drop_in.write_text(
        'registries."registry.k8s.io".mirrors = ["http://m3"]\nregistries."127.0.0.1:5000" = { plain_http = true }\n'
    )

    loaded = load(file)

    assert loaded.config.registries == {
        "registry.k8s.io": Registry(mirrors=("http://m3",), plain_http=True),
        "127.0.0.1:5000": Registry(plain_http=True),
    }
    assert loaded.sources['registries."registry.k8s.io".mirrors'] == str(drop_in)
    assert loaded.sources['registries."registry.k8s.io".plain_http'] == str(file)
    assert loaded.sources['registries."registry.k8s.io".ca_file'] == DEFAULT


def test_the_socket_follows_the_run_directory_unless_it_is_set(file: Path) -> None:
    file.write_text("")
    follows = load(file, {"run": "/run/other"})
    stays = load(file, {"run": "/run/other", "socket": "/s.sock"})

    assert (follows.config.socket, follows.sources["socket"]) == ("/run/other/ocid.sock", COMMAND_LINE)
    assert stays.config.socket == "/s.sock"


def test_paths_on_the_command_line_may_be_relative(file: Path) -> None:
    file.write_text("")
    assert load(file, {"root": "here"}).config.root == os.path.abspath("here")


def test_known_runtimes_are_found_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: Path) -> None:
    for name in ("runc", "kata"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(config, "_SBIN", "")
    file.write_text('[runtime.handlers.kata]\n[runtime.handlers.other]\npath = "/opt/other"\n')

    loaded = load(file)

    assert {name: handler.path for name, handler in loaded.config.runtime.handlers.items()} == {
        "runc": str(tmp_path / "runc"),
        "kata": str(tmp_path / "kata"),
        "other": "/opt/other",
    }
    assert loaded.sources["runtime.handlers.kata.path"] == DEFAULT
    assert loaded.sources["runtime.handlers.other.path"] == str(file)


def test_values_come_in_order_with_their_sources(file: Path) -> None:
    file.write_text("[containers.rlimits]\nRLIMIT_NOFILE = [10, 20]\n")
    values = load(file).values()

    assert values[0] == ("root", "/var/lib/ocid", DEFAULT)
    assert ("containers.rlimits.RLIMIT_NOFILE", (10, 20), str(file)) in values


# --- what is refused -------------------------------------------------------------------------------------------------


REFUSED = [
    ("rooot = 1", "rooot: no such key, did you mean root?"),
    ("[network]\nbrigde = 1", "network.brigde: no such key, did you mean network.bridge?"),
    ("brigde = 1", "brigde: no such key, did you mean network.bridge?"),
    (
        '[registries."a.b"]\nmirors = []',
        'registries."a.b".mirors: no such key, did you mean registries."a.b".mirrors?',
    ),
    ("[images]\nzzz = 1", "images.zzz: no such key, wanted one of download_parallel, layer_bytes_max"),
    ('"a\\nb" = 1', '"a?b": no such key'),
    ("root = 3", "root: wanted a string, is 3"),
    ("[nri]\nsocket = 'nri.sock'", "nri.socket: wanted an absolute path"),
    ("[nri]\nplugin_dir = '/a/../b'", "nri.plugin_dir: wanted an absolute path"),
    (f"[nri]\nsocket = '/{'x' * 107}'", "nri.socket: wanted at most 107 bytes, has 108"),
    ("[nri]\nrequest_timeout_s = 0", "nri.request_timeout_s"),
    ("network = 3", "network: wanted a table, is 3"),
    ("[root]", "root: wanted a string, is a table"),
    ("[containers]\ncreate_missing_mounts = 1", "containers.create_missing_mounts: wanted true or false, is 1"),
    ("[images]\ndownload_parallel = true", "images.download_parallel: wanted a whole number from 1 to 64, is true"),
    ("[images]\ndownload_parallel = 0", "images.download_parallel: wanted a whole number from 1 to 64, is 0"),
    ("[images]\ndownload_parallel = 2.5", "images.download_parallel: wanted a whole number from 1 to 64, is 2.5"),
    ("[images]\nno_progress_timeout_s = 1979-05-27", "wanted a whole number from 1 to 86400, is 1979-05-27"),
    ("[network]\nsubnets = [1]", "network.subnets: wanted a list of strings, is a list"),
    ('[network]\nsubnets = "10.0.0.0/16"', "network.subnets: wanted a list of strings, is '10.0.0.0/16'"),
    ('log_level = "loud"', 'log_level: wanted "debug" or "error" or "info" or "warning", is \'loud\''),
    ('[cgroup]\ndriver = "v2"', 'cgroup.driver: wanted "auto" or "cgroupfs" or "systemd", is \'v2\''),
    ("[containers.rlimits]\nRLIMIT_NOFILE = [1]", "containers.rlimits.RLIMIT_NOFILE: wanted a list of 2, each"),
    ('root = "var/lib"', "root: wanted an absolute path"),
    ('root = "/a/../b"', "root: wanted an absolute path"),
    ('root = "/"', "root: wanted a directory of its own"),
    ('root = "/a\\u0000b"', "root: wanted an absolute path"),
    ('root = "/run/ocid"', "root: wanted another directory than run"),
    (f'socket = "/{"s" * 107}"', "socket: wanted at most 107 bytes (unix(7)), has 108"),
    ('[cgroup]\nparent = "ocid"', "cgroup.parent: wanted an absolute path"),
    ('[runtime]\ndefault = "kata"', "runtime.default: wanted one of the handlers crun"),
    ("[runtime.handlers.nowhere-to-be-found]", "path: not set, and there is no 'nowhere-to-be-found' on PATH"),
    ('[runtime.handlers."A/B"]\npath = "/x"', 'runtime.handlers."A/B": wanted a name of lower-case letters'),
    ('[network]\nbridge = "sixteen-letters-"', "network.bridge: wanted an interface name of at most 15 characters"),
    ('[network]\nbridge = "a/b"', "network.bridge: wanted an interface name"),
    ("[network]\nsubnets = []", "network.subnets: wanted one IPv4 subnet"),
    ('[network]\nsubnets = ["10.0.0.0/16", "10.1.0.0/16"]', "network.subnets: wanted one IPv4 subnet"),
    ('[network]\nsubnets = ["10.0.0.1/16"]', "network.subnets: wanted CIDRs such as"),
    ('[network]\nsubnets = ["10.0.0.0"]', "network.subnets: wanted a prefix length from 8 to 29"),
    ('[network]\nsubnets = ["10.0.0.0/30"]', "network.subnets: wanted a prefix length from 8 to 29"),
    ('[network]\nsubnets = ["224.0.0.0/8"]', "network.subnets: wanted unicast addresses"),
    ('[network]\ncni_bin_dirs = ["/a", "/a"]', "network.cni_bin_dirs: '/a' is there twice"),
    ('[registries."https://a"]', 'registries."https://a": wanted HOST or HOST:PORT'),
    ('[registries.a]\nmirrors = ["m:5000"]', "registries.a.mirrors: wanted URLs such as"),
    ('[streaming]\naddress = "localhost"', "streaming.address: wanted an IP address, is 'localhost'"),
    (
        '[streaming]\naddress = "0.0.0.0"',
        "streaming.address: wanted a loopback address unless tls_cert",
    ),
    ("[streaming]\nport = 65536", "streaming.port"),
    ('[streaming]\ntls_cert = "/c.pem"', "streaming.tls_key: not set: wanted tls_cert and tls_key together"),
    ('[streaming]\ntls_key = "/k.pem"', "streaming.tls_cert: not set: wanted tls_cert and tls_key together"),
    ('[streaming]\ntls_client_ca = "/ca.pem"', "streaming.tls_client_ca: set without tls_cert and tls_key"),
    ('[streaming]\ntls_key = "k.pem"\ntls_cert = "/c.pem"', "streaming.tls_key: wanted an absolute path"),
    ("[streaming]\nsessions_max = 0", "streaming.sessions_max"),
    ('[registries.a]\nmirrors = ["http://:1"]', "registries.a.mirrors: wanted URLs such as"),
    ('[registries.a]\nmirrors = ["http://m:99999"]', "registries.a.mirrors: wanted URLs such as"),
    ('[registries.a]\nmirrors = ["http://me:secret@m"]', "registries.a.mirrors: credentials do not belong here"),
    ('[registries.a]\nca_file = "ca.pem"', "registries.a.ca_file: wanted an absolute path"),
    ('[containers]\nenv = ["A"]', "containers.env: wanted 'NAME=value'"),
    ("[containers.rlimits]\nRLIMIT_NOFILE = [2, 1]", "containers.rlimits.RLIMIT_NOFILE: wanted soft ≤ hard"),
    ("[containers.rlimits]\nnofile = [1, 1]", "containers.rlimits.nofile: wanted a name such as RLIMIT_NOFILE"),
    (
        '[security]\ndefault_capabilities = ["chown"]',
        "security.default_capabilities: wanted names such as CAP_CHOWN",
    ),
    ('[security]\napparmor_default = ""', "security.apparmor_default: wanted a profile or 'unconfined', is ''"),
    ('[security]\napparmor_default = "a\\nb"', "security.apparmor_default: wanted a profile or 'unconfined'"),
    ('[audit]\nusual_peers = ["kubelet"]', "audit.usual_peers: wanted absolute paths of programs, without links"),
    ('[audit]\nusual_peers = ["/usr/bin/../kubelet"]', "audit.usual_peers: wanted absolute paths"),
    ('[audit]\nusual_peers = ["/a", "/b", "/a"]', "audit.usual_peers: one of them is there twice"),
    (f'[audit]\nusual_peers = ["/{"a" * 1000}"]', "audit.usual_peers: wanted at most 8 paths of 1000 bytes together"),
    ('[audit]\nusual_peers = "/usr/bin/kubelet"', "audit.usual_peers"),
    ('[redaction]\nnames = ["("]', "redaction.names: wanted Python regular expressions, pattern 1"),
    ('[redaction]\nvalues = ["x", ""]', "redaction.values: pattern 2 fits what is empty, and so would hide everything"),
    ('[redaction]\nvalues = ["a*"]', "redaction.values: pattern 1 fits what is empty, and so would hide everything"),
    (f'[redaction]\nnames = ["{"x" * 513}"]', "redaction.names: pattern 1 has 513 characters; the limit is 512"),
    (f"[redaction]\nnames = {['x'] * 65}", "redaction.names: wanted at most 64 patterns, has 65"),
    ("= 1", "not TOML: "),
    ("a = 1\na = 2", "not TOML: "),
    ("x = " + "[" * 20_000, "not TOML that ocid reads"),
    ("x = " + "9" * 10_000, "not TOML that ocid reads"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_refusals_name_the_file_the_key_what_was_wanted_and_what_is(file: Path, text: str, message: str) -> None:
    assert message in refused(file, text)


def test_credentials_in_a_mirror_are_not_repeated(file: Path) -> None:
    assert "secret" not in refused(file, '[registries.a]\nmirrors = ["ftp://me:secret@m"]')


def test_the_command_line_is_named_when_it_is_at_fault(file: Path) -> None:
    file.write_text("")
    with pytest.raises(InvalidRequest, match=r"^command line: root: wanted an absolute path.*is ''"):
        load(file, {"root": ""})


def test_files_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latin1.toml").write_bytes(b'root = "/\xe9"')
    os.mkfifo(tmp_path / "fifo.toml")
    monkeypatch.setattr(config_files, "FILE_BYTES_MAX", 100)
    (tmp_path / "large.toml").write_text("#" * 101)
    for name, why in (
        ("latin1.toml", "not TOML"),
        ("fifo.toml", "not a regular file"),
        (".", "cannot be read|not a regular file"),
        ("large.toml", "larger than 100 bytes"),
        ("nul\0.toml", "cannot be read"),
    ):
        with pytest.raises(InvalidRequest, match=why):
            load(tmp_path / name)


def test_too_many_drop_ins_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_files, "DROP_INS_MAX", 2)
    file.with_name("ocid.toml.d").mkdir()
    for number in range(3):
        (file.with_name("ocid.toml.d") / f"{number}.toml").write_text("")
    with pytest.raises(InvalidRequest, match="limit is 2"):
        load(file if file.exists() else file.with_name("ocid.toml"))


# --- any tree at all -------------------------------------------------------------------------------------------------

_names = st.sampled_from([*Config.__struct_fields__, "handlers", "runc", "mirrors", "bridge", "subnets", "path", "zz"])
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.sampled_from(["/a", "10.0.0.0/16", "auto", "br0", "http://m", date.max]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names | st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(_names, _values, max_size=4), max_size=3))
def test_any_trees_give_a_configuration_or_one_refusal(trees: list[dict[str, Any]]) -> None:
    tree = config_files.Tree(Config)
    try:
        for number, values in enumerate(trees):
            tree.add(values, f"file {number}")
    except InvalidRequest as refusal:
        message = refusal.message
    else:
        message = "file: accepted"
    assert message.startswith("file")
    assert message.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_give_a_configuration_or_one_refusal(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "ocid.toml"
    path.write_bytes(text)
    try:
        load(path)
    except InvalidRequest as refusal:
        message = refusal.message
    else:
        message = ""
    assert "\n" not in message


# --- what is shipped -------------------------------------------------------------------------------------------------


def test_the_shipped_file_changes_nothing() -> None:
    assert tomllib.loads((PACKAGING / "ocid.toml").read_text()) == {}


def test_the_shipped_file_shows_every_default(tmp_path: Path) -> None:
    shown = re.sub(r"(?m)^#(?=\[|[a-z_]+ = )", "", (PACKAGING / "ocid.toml").read_text())
    (tmp_path / "shown.toml").write_text(shown)
    (tmp_path / "empty.toml").write_text("")

    assert load(tmp_path / "shown.toml").config == load(tmp_path / "empty.toml").config
    wanted = {key for key, _, _ in load(tmp_path / "empty.toml").values() if not key.startswith("runtime.handlers.")}
    sources = load(tmp_path / "shown.toml").sources
    assert {key for key, source in sources.items() if source != DEFAULT} == wanted


def test_examples_in_the_shipped_file_are_accepted(tmp_path: Path) -> None:
    text = (PACKAGING / "ocid.toml").read_text()
    examples = re.sub(r"(?m)^#   (?=\[|[A-Za-z_]+ = )", "", text)
    assert examples != text
    (tmp_path / "examples.toml").write_text(examples)
    loaded = load(tmp_path / "examples.toml")
    assert loaded.config.registries["registry.k8s.io"].mirrors == ("http://127.0.0.1:5000",)
    assert loaded.config.containers.rlimits == {"RLIMIT_NOFILE": (1024, 1_048_576)}
    assert [each.title for each in loaded.config.checkpoints.push] == ["file", "syslog", "auditors", "otlp"]


def test_the_defaults_are_those_of_the_domain() -> None:
    assert set(Config().security.default_capabilities) == set(DEFAULT_CAPABILITIES)
    assert Config().security.apparmor_default == apparmor.PROFILE
    assert ipam.subnets_of(Config().network.subnets)
    assert config._PREFIX_BITS == {
        4: (ipam.PREFIX_MIN, ipam.IPV4_PREFIX_MAX),
        6: (ipam.PREFIX_MIN, ipam.IPV6_PREFIX_MAX),
    }


def test_the_unit_lets_containers_outlive_the_daemon() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(PACKAGING / "ocid.service")
    service = dict(unit["Service"])
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["Restart"] == "always"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["ExecStart"].endswith("ocid serve")
