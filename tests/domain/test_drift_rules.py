"""The nftables table line by line: what it lacks, what it has too much, and whose it is."""

from __future__ import annotations

from ocid.domain.drift_rules import ORDER, blocks, compare_rules, explained
from ocid.domain.hostports import Held, HostPort

POD = "p" * 64
LISTING = """table inet ocid_x {
\tset tcp_ports {
\t\ttype inet_service
\t\telements = { 80, 443,
\t\t\t     8080 }
\t}

\tset guarded {
\t\ttype ifname
\t\telements = { "ocid0" }
\t}

\tmap ports4 {
\t\ttype inet_proto . inet_service : ipv4_addr . inet_service
\t\telements = { tcp . 443 comment "b, c" : 10.0.0.3 . 443, tcp . 80 comment "%s" : 10.0.0.2 . 80 }
\t}

\tchain empty {
\t}

\tchain guard {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname @guarded ip saddr 127.0.0.0/8 drop
\t\tip saddr { 10.0.0.0/8, 192.168.0.0/16 } drop
\t}
}
""".replace("%s", POD)


def test_a_listing_is_read_block_by_block() -> None:
    assert blocks(LISTING) == {
        "set tcp_ports": ("type inet_service", "", "443", "80", "8080"),
        "set guarded": ("type ifname", "", '"ocid0"'),
        "map ports4": (
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "",
            'tcp . 443 comment "b, c" : 10.0.0.3 . 443',
            f'tcp . 80 comment "{POD}" : 10.0.0.2 . 80',
        ),
        "chain empty": (),
        "chain guard": (
            "type filter hook prerouting priority raw; policy accept;",
            "iifname @guarded ip saddr 127.0.0.0/8 drop",
            "ip saddr { 10.0.0.0/8, 192.168.0.0/16 } drop",
        ),
    }


def told(found: str) -> list[tuple[str, str, str, int]]:
    differences = compare_rules("inet ocid_x", blocks(LISTING), blocks(found), {POD: 42})
    return [(one.subject, one.expected, one.found, one.seq) for one in differences]


def test_the_same_table_does_not_differ() -> None:
    assert told(LISTING) == []


def test_a_missing_rule_and_a_strange_one() -> None:
    changed = LISTING.replace("iifname @guarded ip saddr 127.0.0.0/8 drop", "accept")

    assert told(changed) == [
        ("table inet ocid_x, chain guard", "iifname @guarded ip saddr 127.0.0.0/8 drop", "", 0),
        ("table inet ocid_x, chain guard", "", "accept", 0),
    ]


def test_another_policy_is_a_difference() -> None:
    assert len(told(LISTING.replace("policy accept", "policy drop"))) == 2


def test_an_element_cites_its_pod() -> None:
    changed = LISTING.replace("10.0.0.2 . 80", "10.0.0.66 . 80")

    assert [(seq, bool(expected)) for _, expected, _, seq in told(changed)] == [(42, True), (42, False)]


def test_a_rule_twice_is_one_too_many() -> None:
    rule = "\t\tip saddr { 10.0.0.0/8, 192.168.0.0/16 } drop\n"

    assert [found for _, _, found, _ in told(LISTING.replace(rule, rule * 2))] == [rule.strip()]


def test_the_order_of_rules_counts_and_that_of_elements_does_not() -> None:
    lines = LISTING.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if "iifname" in line)
    lines[at], lines[at + 1] = lines[at + 1], lines[at]

    assert [expected for _, expected, _, _ in told("".join(lines))] == [ORDER]
    assert told(LISTING.replace("{ 80, 443,", "{ 443, 80,")) == []


def test_whole_blocks_come_and_go() -> None:
    lacking = LISTING.replace("\tchain guard {", "\tchain other {")

    assert [subject for subject, _, _, _ in told(lacking)] == [
        "table inet ocid_x, chain guard",
        "table inet ocid_x, chain other",
    ]
    assert told(LISTING.replace("\tchain empty {\n\t}\n", "")) == [("table inet ocid_x, chain empty", "empty", "", 0)]


def test_one_guarded_interface_more_is_none_and_one_less_is() -> None:
    assert told(LISTING.replace('{ "ocid0" }', '{ "ocid0", "eth7" }')) == []
    assert told(LISTING.replace('{ "ocid0" }', '{ "eth7" }')) == [("table inet ocid_x, set guarded", '"ocid0"', "", 0)]


def port(pod_id: str = POD, address: str = "10.0.0.2", device: str = "", number: int = 80) -> HostPort:
    return HostPort(
        pod_id=pod_id,
        protocol="tcp",
        host_ip="",
        host_port=number,
        address=address,
        container_port=80,
        device=device,
        near="10.0.0.0/8" if device else "",
    )


def test_a_port_that_has_to_be_is_wanted_whatever_is_found() -> None:
    assert dict(explained(Held(), [port()], []).ports) == {port().key: port()}
    strange = port(address="10.0.0.66")
    assert dict(explained(Held(ports={strange.key: strange}), [port()], []).ports) == {port().key: port()}


def test_a_port_that_may_be_is_wanted_as_it_is_found() -> None:
    found = port(device="veth9")
    held = Held(ports={found.key: found}, devices=("veth9",))

    assert explained(held, [], [port()]) == held
    assert explained(held, [], [port(address="10.0.0.66")]).ports == {}
    assert explained(held, [], [port(pod_id="other")]).ports == {}
    assert explained(Held(), [], [port()]) == Held()
