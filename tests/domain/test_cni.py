"""CNI: what is accepted as a configuration, what plugins are told, and what their answers may do to us."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from ocid.domain import cni
from ocid.domain.configs import DnsConfig, PortMapping, Protocol
from ocid.errors import EffectFailed, InvalidRequest, OcidError, Unavailable

BRIDGE = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "subnet": "10.1.0.0/16"}}
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True, "aliases": False}, "snat": True}
LIST = {"cniVersion": "1.0.0", "name": "pods", "plugins": [BRIDGE, PORTMAP]}


def conflist(**changes) -> bytes:
    return json.dumps({key: value for key, value in {**LIST, **changes}.items() if value is not ...}).encode()


def told(**changes: Any) -> dict[str, Any]:
    return cni.capability_arguments(**{"ports": (), "annotations": {}, "aliases": (), "dns": None, **changes})


def network(version: str = "1.0.0") -> cni.NetworkList:
    return cni.parse("10-pods.conflist", conflist(cniVersion=version))


def test_a_list():
    read = network()

    assert (read.name, read.version, read.file, read.disable_check) == ("pods", "1.0.0", "10-pods.conflist", False)
    assert [plugin.type for plugin in read.plugins] == ["bridge", "portmap"]
    assert read.plugins[0].programs == ("bridge", "host-local")
    assert read.plugins[1].capabilities == ("portMappings",)
    assert msgspec.json.decode(msgspec.json.encode(read), type=cni.NetworkList) == read


def test_a_single_plugin_is_a_list_of_one():
    read = cni.parse("1.conf", json.dumps({**BRIDGE, "cniVersion": "0.3.1", "name": "one"}).encode())

    assert (read.name, read.version, len(read.plugins)) == ("one", "0.3.1", 1)


@pytest.mark.parametrize(
    ("changes", "version"),
    [
        ({"cniVersion": "0.3.0"}, "0.3.0"),
        ({"cniVersion": "0.4.0"}, "0.4.0"),
        ({"cniVersions": ["0.4.0", "1.1.0", "9.0.0"]}, "1.1.0"),
        ({"cniVersion": "9.0.0", "cniVersions": ["0.4.0"]}, "0.4.0"),
    ],
)
def test_the_newest_version_that_is_known_counts(changes, version):
    assert cni.parse("a.conflist", conflist(**changes)).version == version


@pytest.mark.parametrize(("value", "disabled"), [(True, True), ("true", True), (False, False), ("false", False)])
def test_disable_check(value, disabled):
    assert cni.parse("a.conflist", conflist(disableCheck=value)).disable_check is disabled


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b" " * (cni.CONFIG_BYTES_MAX + 1), "the limit is"),
        (conflist(name=...), "name None"),
        (conflist(name="../x"), "name '../x'"),
        (conflist(name=7), "name 7"),
        (conflist(plugins=...), "'plugins' must be"),
        (conflist(plugins=[]), "'plugins' must be"),
        (conflist(plugins={}), "'plugins' must be"),
        (conflist(plugins=[BRIDGE] * 33), "1 to 32"),
        (conflist(plugins=["bridge"]), "a plugin must be"),
        (conflist(plugins=[{}]), "plugin type None"),
        (conflist(plugins=[{"type": "../../bin/sh"}]), "without '/'"),
        (conflist(plugins=[{"type": "x", "capabilities": []}]), "'capabilities' of plugin 'x'"),
        (conflist(cniVersion=...), "cniVersion None"),
        (conflist(cniVersion="0.2.0"), "cniVersion '0.2.0'"),
        (conflist(cniVersions="1.0.0"), "'cniVersions' must be a list"),
    ],
)
def test_a_bad_configuration_is_refused_with_file_and_fault(raw, says):
    with pytest.raises(InvalidRequest) as refused:
        cni.parse("a.conflist", raw)
    assert "CNI configuration 'a.conflist'" in refused.value.message
    assert says in refused.value.message


def test_the_first_valid_file_by_name_counts():
    files = {"20-b.conflist": conflist(name="b"), "10-a.conf": b"{", "30-c.json": conflist(), "00-x.txt": conflist()}

    chosen, faults = cni.choose(files)

    assert chosen is not None
    assert chosen.name == "b"
    assert len(faults) == 1
    assert "'10-a.conf'" in faults[0]


def test_no_valid_file_names_all_faults():
    chosen, faults = cni.choose({"b.conflist": b"", "a.json": b"7"})

    assert chosen is None
    assert ["a.json" in faults[0], "b.conflist" in faults[1]] == [True, True]
    assert cni.choose({}) == (None, ())


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_read_or_refused(raw):
    with pytest.raises(OcidError):
        cni.parse("a.conflist", raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("cniVersion", "cniVersions", "name", "type"), JSON)), JSON)
def test_any_document_is_read_or_refused(document, plugins):
    with contextlib.suppress(InvalidRequest):
        cni.parse("a.conf", json.dumps({**document, "plugins": plugins}).encode())


# --- what a plugin is told -------------------------------------------------------------------------------------------


def test_a_plugin_reads_its_configuration_name_and_version():
    read = network()

    told = json.loads(cni.stdin_config(read, read.plugins[0], {"portMappings": [1]}, None))

    assert told == {**BRIDGE, "name": "pods", "cniVersion": "1.0.0"}


def test_a_plugin_is_told_the_capabilities_that_it_declares_and_the_result_before_it():
    read = network()

    told = json.loads(cni.stdin_config(read, read.plugins[1], {"portMappings": [1], "aliases": ["a"]}, {"ips": []}))

    assert told == {
        "type": "portmap",
        "snat": True,
        "name": "pods",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": [1]},
        "prevResult": {"ips": []},
    }


def test_a_configuration_cannot_forge_a_previous_result():
    read = cni.parse("a.conflist", conflist(plugins=[{"type": "x", "prevResult": {"ips": []}}]))

    assert "prevResult" not in json.loads(cni.stdin_config(read, read.plugins[0], {}, None))


def test_capability_arguments():
    ports = [
        PortMapping(protocol=Protocol.UDP, container_port=53, host_port=5353, host_ip="192.0.2.1"),
        PortMapping(container_port=80),
    ]
    annotations = {"kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1Mi"}

    found = told(ports=ports, annotations=annotations, aliases=["web"])

    assert found["portMappings"] == [
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
    ]
    assert found["bandwidth"] == {
        "ingressRate": 10_000_000,
        "ingressBurst": cni.BURST_BITS,
        "egressRate": 1 << 20,
        "egressBurst": cni.BURST_BITS,
    }
    assert found["aliases"] == ["web"]
    assert found["io.kubernetes.cri.pod-annotations"] == annotations
    assert told(ports=ports[1:], annotations={}, aliases=[]) == {"aliases": []}


@pytest.mark.parametrize(
    ("text", "bits"), [("1000", 1000), ("1k", 1000), ("1.5M", 1_500_000), ("2e6", 2_000_000), ("1500000m", 1500)]
)
def test_a_bandwidth(text, bits):
    annotations = {"kubernetes.io/egress-bandwidth": text}
    assert told(ports=(), annotations=annotations, aliases=())["bandwidth"]["egressRate"] == bits


@pytest.mark.parametrize("text", ["", "x", "999", "2P", "1.2.3", "-5M", "10 M", "1e99", "...", "9" * 400, "nan", "1kk"])
def test_a_bad_bandwidth_is_refused(text):
    with pytest.raises(InvalidRequest, match="ingress bandwidth"):
        told(ports=(), annotations={"kubernetes.io/ingress-bandwidth": text}, aliases=())


def test_arguments():
    assert cni.arguments(namespace="ns", name="web", pod_id="abc", uid="u-1") == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
    )


@pytest.mark.parametrize("name", ["x;K8S_POD_NAMESPACE=kube-system", "a=b", "a\0b", "a\nb"])
def test_a_pod_cannot_pass_arguments_of_its_own(name):
    with pytest.raises(InvalidRequest, match="K8S_POD_NAME"):
        cni.arguments(namespace="ns", name=name, pod_id="abc", uid="u")


# --- what a plugin answers -------------------------------------------------------------------------------------------

INTERFACES = [{"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}]


def answer(version: str, ips: object, **more) -> bytes:
    return json.dumps({"cniVersion": version, "ips": ips, **more}).encode()


@pytest.mark.parametrize("version", cni.VERSIONS)
@pytest.mark.parametrize("answered", cni.VERSIONS)
def test_results_of_every_version_come_out_in_the_networks(version, answered):
    given_ips = [{"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2}]
    given_ips.append({"version": "6", "address": "fd00::5/64", "interface": 2})

    read = cni.parse_answer(network(version), "bridge", answer(answered, given_ips, interfaces=INTERFACES, x=1))

    assert read.addresses == ("10.1.0.5", "fd00::5")
    assert read.document["cniVersion"] == version
    assert read.document["x"] == 1
    assert [ip.get("version") for ip in read.document["ips"]] == (["4", "6"] if version < "1" else [None, None])


def test_addresses_outside_the_pod_do_not_count():
    ips = [{"address": "10.1.0.1/16", "interface": 0}, {"address": "10.1.0.5/16", "interface": 2}]
    assert cni.parse_answer(network(), "x", answer("1.0.0", ips, interfaces=INTERFACES)).addresses == ("10.1.0.5",)


def test_a_result_without_addresses_or_version_is_one():
    read = cni.parse_answer(network(), "loopback", b"{}")

    assert (read.addresses, read.document) == ((), {"cniVersion": "1.0.0"})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"x":"' + b"y" * (1 << 20) + b'"}',
        answer("0.2.0", []),
        answer("9.9.9", []),
        answer("1.0.0", {"a": 1}),
        answer("1.0.0", [None]),
        answer("1.0.0", [{}]),
        answer("1.0.0", ["10.1.0.1/16"]),
        answer("1.0.0", [{"address": "ten"}]),
        answer("1.0.0", [{"address": {}}]),
        answer("1.0.0", [{"address": 12345}]),
        answer("1.0.0", [{"address": "fe80::1%x . drop/64"}]),
        answer("1.0.0", [{"address": "10.1.0.1/99"}]),
        answer("1.0.0", [{"address": "10.1.0.1/16"}] * 33),
        answer("1.0.0", [], interfaces=7),
        b'{"cniVersion": {"a": []}}',
    ],
)
def test_nonsense_is_refused_with_network_and_plugin(raw):
    with pytest.raises(EffectFailed, match="CNI network 'pods': plugin 'evil' answered ADD with") as refused:
        cni.parse_answer(network(), "evil", raw)
    assert len(refused.value.message) < 1000


@given(JSON, JSON, JSON)
def test_any_answer_is_read_or_refused(ips, interfaces, version):
    for entry in (ips, [ips], [{"address": "10.1.0.1/16", "interface": ips}]):
        raw = json.dumps({"ips": entry, "interfaces": interfaces, "cniVersion": version}).encode()
        for document in (raw, raw.replace(json.dumps(version).encode(), b'"1.0.0"')):
            with contextlib.suppress(EffectFailed):
                cni.parse_answer(network(), "x", document)


def test_failures_carry_code_message_and_details():
    out = json.dumps({"cniVersion": "1.0.0", "code": 7, "msg": "bad config", "details": "no subnet"}).encode()

    error = cni.failure(network(), "bridge", "ADD", 1, out, b"")

    assert isinstance(error, EffectFailed)
    assert str(error) == "CNI network 'pods': plugin 'bridge' failed to ADD: bad config (no subnet) [code 7]"


def test_try_again_later_is_unavailable():
    assert isinstance(cni.failure(network(), "x", "ADD", 1, b'{"code": 11, "msg": "busy"}', b""), Unavailable)


@pytest.mark.parametrize(
    ("out", "err", "says"),
    [
        (b"", b"Segmentation fault", "Segmentation fault"),
        (b"panic", b"", "panic"),
        (b"", b"", "it said nothing"),
        (b'{"msg": "no code"}', b"", "no code"),
        (b'{"code": {}, "msg": 7}', b"", "exit code 2"),
    ],
)
def test_a_failure_without_an_error_document_shows_the_output(out, err, says):
    assert says in str(cni.failure(network(), "x", "DEL", 2, out, err))


@given(st.binary(max_size=50), JSON, JSON)
def test_any_failure_is_an_error_of_ours(out, code, msg):
    for document in (out, json.dumps({"code": code, "msg": msg, "details": msg}).encode()):
        assert isinstance(cni.failure(network(), "x", "ADD", 1, document, out), OcidError)


# --- what 1.1.0 brought -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "checks", "collects", "status"),
    [
        ({"cniVersion": "0.3.1"}, False, False, False),
        ({"cniVersion": "0.4.0"}, True, False, False),
        ({"cniVersion": "1.1.0"}, True, True, True),
        ({"cniVersion": "1.1.0", "disableCheck": True, "disableGC": "true"}, False, False, True),
    ],
)
def test_what_plugins_may_be_asked(changes, checks, collects, status):
    read = cni.parse("a.conflist", conflist(**changes))
    assert (read.checks, read.collects, read.tells_status) == (checks, collects, status)


def test_who_maps_ports():
    assert network().maps_ports
    silent = {**PORTMAP, "capabilities": {"portMappings": False}}
    assert not cni.parse("a.conflist", conflist(plugins=[BRIDGE, silent])).maps_ports
    assert not cni.parse("a.conflist", conflist(plugins=[BRIDGE])).maps_ports


def test_more_plugins_go_behind_those_of_the_list():
    read = cni.parse("a.conflist", conflist())
    assert not read.only_inlined
    files = {"pods/2.conf": b'{"type": "two"}', "pods/1.conf": b'{"type": "one"}', "pods/3.conf": b"[]"}

    more, faults = cni.with_more(read, files)

    assert [plugin.type for plugin in more.plugins] == ["bridge", "portmap", "one", "two"]
    assert faults == ("CNI configuration 'pods/3.conf': a plugin must be a JSON object",)
    many = {f"pods/{number}.conf": b'{"type": "x"}' for number in range(cni.PLUGINS_MAX)}
    assert cni.with_more(read, many)[0] == read
    assert cni.parse("a.conflist", conflist(loadOnlyInlinedPlugins=True)).only_inlined
    assert cni.parse("a.conf", json.dumps({**BRIDGE, "cniVersion": "1.1.0", "name": "n"}).encode()).only_inlined


def test_a_pods_wishes_and_its_resolver():
    annotations = {cni.IPS_ANNOTATION: "10.1.2.3/16, fd00::3/64", cni.MAC_ANNOTATION: "02:00:00:00:00:01"}
    dns = DnsConfig(servers=("10.96.0.10",), searches=("svc.local",), options=("ndots:5",))

    found = told(annotations=annotations, dns=dns)

    assert found["ips"] == ["10.1.2.3/16", "fd00::3/64"]
    assert found["mac"] == "02:00:00:00:00:01"
    assert found["dns"] == {"servers": ["10.96.0.10"], "searches": ["svc.local"], "options": ["ndots:5"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (cni.IPS_ANNOTATION, ""),
        (cni.IPS_ANNOTATION, "nonsense"),
        (cni.IPS_ANNOTATION, ",".join(["10.0.0.1"] * 40)),
        (cni.MAC_ANNOTATION, "02:00"),
        (cni.MAC_ANNOTATION, "01:00:00:00:00:01"),
    ],
)
def test_wishes_that_cannot_be_are_refused(name, text):
    with pytest.raises(InvalidRequest, match=name):
        told(annotations={name: text})


def test_prefix_lengths_come_from_the_result():
    document = {"ips": [{"address": "10.9.0.7/16"}, {"address": "fd00::7/64"}]}
    assert cni.with_prefixes(("10.9.0.7", "fd00::7", "10.9.0.8"), document) == (
        "10.9.0.7/16",
        "fd00::7/64",
        "10.9.0.8",
    )
    assert cni.with_prefixes((), {}) == ()
