"""The default AppArmor profile's text: what its rules match, and how it differs between nodes."""

from __future__ import annotations

import re

import pytest

from ocid.domain.apparmor import ABIS, PROFILE, Dialect, Gap, label_of, modes, profile_text
from ocid.errors import EffectFailed

TEXT = profile_text(Dialect())


def glob(pattern: str) -> re.Pattern[str]:
    """Translate a path pattern of apparmor.d(5), section "Globbing", into a regular expression."""
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}
    tokens = re.findall(r"\[[^]]*\]|\*\*|.", pattern)
    return re.compile("".join(one if one.startswith("[") else parts.get(one, re.escape(one)) for one in tokens))


def denied(path: str, access: str) -> bool:
    """Say whether a rule denies this kind of access to a path."""
    rules = re.findall(r"^  deny (/\S+) ([rwklx]+),$", TEXT, re.MULTILINE)
    assert len(rules) == TEXT.count("deny /")
    return any(access in accesses and glob(pattern).fullmatch(path) for pattern, accesses in rules)


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sysrq-trigger", "/proc/kcore", "/proc/mem", "/proc/timer_list", "/proc/uptime",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/sched_domain/x",
        "/proc/sys/kernel/yama/p",
        "/proc/sys/kernel/keys/maxkeys", "/proc/sys/kernel/seccomp/actions_logged", "/proc/sys/vm/drop_caches",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/user/max_user_namespaces",
        "/proc/acpi/x", "/proc/bus/pci/00", "/proc/irq/1/smp_affinity", "/proc/scsi/scsi", "/proc/sysvipc/shm",
        "/proc/fs/nfsd/x", "/proc/dynamic_debug/control", "/sys/kernel/mm/ksm/run", "/sys/class/net/eth0/mtu",
        "/sys/fs/bpf/x", "/sys/fs/ext4/a/b", "/sys/fs/selinux/enforce", "/sys/firmware/efi/x", "/sys/power/state",
        "/sys/fs/fuse/connections/1/abort", "/sys/kernel/security/apparmor/.replace",
        "/sys/devices/system/cpu/cpu0/online",
    ],
)  # fmt: skip
def test_what_is_everybodys_cannot_be_written(path: str) -> None:
    assert denied(path, "w")


@pytest.mark.parametrize(
    "path",
    [
        "/proc/1/attr/exec", "/proc/17/oom_score_adj", "/proc/99/task/100/comm", "/proc/2/fd/1", "/proc/9/setgroups",
        "/proc/sys/kernel/shmmax", "/proc/sys/kernel/shm_rmid_forced", "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/sub/cgroup.procs", "/tmp/x", "/etc/passwd", "/dev/null", "/procession", "/system/x",
        "/a/proc/sys/x",
    ],
)  # fmt: skip
def test_what_is_the_containers_own_can_be_written(path: str) -> None:
    assert not denied(path, "w")


def test_what_tells_about_the_hosts_memory_and_firmware_cannot_be_read() -> None:
    for path in ("/proc/kcore", "/proc/kmem", "/sys/firmware/dmi/tables/DMI", "/sys/kernel/security/lsm"):
        assert denied(path, "r")
    for path in ("/proc/meminfo", "/proc/sys/kernel/hostname", "/sys/class/net/eth0/mtu", "/proc/cpuinfo"):
        assert not denied(path, "r")


def test_each_abi_is_named_and_gets_the_rules_that_it_needs() -> None:
    texts = {abi: profile_text(Dialect(abi=abi)) for abi in ("", *ABIS)}
    assert "abi <" not in texts[""]
    for abi in ABIS:
        assert f"\nabi <abi/{abi}>,\n\nprofile {PROFILE} " in texts[abi]
    for rule in ("userns", "mqueue", "io_uring"):
        found = {abi for abi, text in texts.items() if f"\n  {rule},\n" in text}
        assert found == {"4.0"}, "an older parser does not know the rule"
    for text in texts.values():
        assert "deny mount,\n" in text
        assert "{{" not in text
        assert "}}" not in text


def test_signals_come_from_the_host_and_from_containers() -> None:
    peers = re.findall(r"signal \(receive\) peer=(.*),", TEXT)
    assert peers[:2] == ["unconfined", "ocid"]
    for label in ("runc", "crun", "/usr/sbin/runc", "/usr/bin/crun", "/usr/local/bin/crun"):
        assert any(glob(one).fullmatch(label) for one in peers), label
    assert not any(glob(one).fullmatch("firefox") for one in peers)
    assert f"signal (send, receive) peer={PROFILE},\n" in TEXT
    own = profile_text(Dialect(own_label="/opt/ocid/bin/ocid"))
    assert own.count("signal (receive) peer=/opt/ocid/bin/ocid,\n") == 1
    assert profile_text(Dialect(own_label="ocid")) == TEXT


def test_a_label_that_means_something_to_the_parser_is_refused() -> None:
    for label in ("a b", "x,\n file", "/usr/*", "", "a//&b"):
        with pytest.raises(EffectFailed, match="the daemon is confined by"):
            profile_text(Dialect(own_label=label))


def test_what_the_kernel_says_is_read() -> None:
    assert [label_of(one) for one in ("unconfined\n", "runc (unconfined)\n", "/a b (enforce)", "")] == [
        "unconfined",
        "runc",
        "/a b",
        "",
    ]
    assert modes("a (enforce)\n/usr/bin/b c (x) (complain)\nd (kill)\n") == {
        "a": "enforce",
        "/usr/bin/b c (x)": "complain",
        "d": "kill",
    }


def test_a_refusal_says_why() -> None:
    assert Gap(reason="no parser").refuse().message == "apparmor profile 'ocid-default' is not in force: no parser"
