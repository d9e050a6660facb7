"""The kernel's accounting files, as they are and as they should not be, and whole cgroups made of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, strategies as st

from ocid.adapters import usage_text as text
from ocid.adapters.cgroups import Cgroups
from ocid.adapters.usage import CgroupUsages
from ocid.adapters.writable import WritableLayers, measure_tree
from ocid.ports.usage import DeviceIo, HugePages, InterfaceUsage, Pressure, Stalled

PRESSURE = (
    b"some avg10=88.16 avg60=51.50 avg300=16.77 total=169156715\nfull avg10=0.00 avg60=0.28 avg300=0.71 total=9\n"
)
NET_DEV = b"""Inter-|   Receive                                     |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo:  840   10  0  0  0  0   0  0   840   10  0  0  0  0  0   0
  eth0:  123456  789  1  2  0  0  0  0  4321  321  3  4  0  0  0  0
 net:1: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0
"""
V2 = {
    "cpu.stat": "usage_usec 3179955\nuser_usec 1375847\nsystem_usec 1804107\nnice_usec 0\n"
    "nr_periods 40\nnr_throttled 3\nthrottled_usec 1500000\nnr_bursts 0\nburst_usec 0\n",
    "cpu.max": "20000 100000\n",
    "cpu.weight": "39\n",
    "cpu.pressure": PRESSURE.decode(),
    "memory.current": "16777216\n",
    "memory.stat": "anon 4194304\nfile 8388608\nkernel 1048576\nkernel_stack 65536\nfile_mapped 2097152\n"
    "inactive_anon 4096\ninactive_file 6291456\nactive_file 2097152\npgfault 5000\npgmajfault 7\n",
    "memory.max": "67108864\n",
    "memory.low": "1048576\n",
    "memory.peak": "20971520\n",
    "memory.swap.current": "4096\n",
    "memory.swap.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 5\noom 1\noom_kill 2\noom_group_kill 0\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "pids.current": "12\n",
    "pids.max": "max\n",
    "io.stat": "253:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.rsvd.current": "0\n",
}
V1 = {
    "cpuacct/cpuacct.usage": "3179955123\n",
    "cpuacct/cpuacct.usage_user": "1375847000\n",
    "cpuacct/cpuacct.usage_sys": "1804107000\n",
    "cpu/cpu.stat": "nr_periods 40\nnr_throttled 3\nthrottled_time 1500000000\nnr_bursts 0\nburst_time 0\n",
    "cpu/cpu.cfs_quota_us": "-1\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "cpu/cpu.shares": "1024\n",
    "memory/memory.usage_in_bytes": "16777216\n",
    "memory/memory.max_usage_in_bytes": "20971520\n",
    "memory/memory.limit_in_bytes": "67108864\n",
    "memory/memory.soft_limit_in_bytes": "9223372036854771712\n",
    "memory/memory.memsw.limit_in_bytes": "100663296\n",
    "memory/memory.kmem.usage_in_bytes": "1048576\n",
    "memory/memory.failcnt": "5\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    "memory/memory.stat": "cache 0\nrss 0\ntotal_cache 8388608\ntotal_rss 4194304\ntotal_mapped_file 2097152\n"
    "total_swap 4096\ntotal_pgfault 5000\ntotal_pgmajfault 7\ntotal_inactive_file 6291456\ninactive_file 1\n",
    "pids/pids.current": "12\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": (
        "253:0 Read 4096\n253:0 Write 8192\n253:0 Sync 0\n253:0 Total 12288\nTotal 12288\n"
    ),
    "blkio/blkio.throttle.io_serviced_recursive": "253:0 Read 1\n253:0 Write 2\nTotal 3\n",
    "hugetlb/hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "unified/cpu.pressure": PRESSURE.decode(),
}  # fmt: skip


class Fake(Cgroups):
    """Hierarchies that are plain directories."""

    def __init__(self, roots: dict[str, str], version: int) -> None:
        self.hierarchies = roots
        self.version = version


def write(files: dict[str, str], root: Path, leaf: str) -> None:
    for name, content in files.items():
        controller, slash, file = name.rpartition("/")
        path = root / f"{controller}{slash}{leaf}" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def v2(tmp_path: Path) -> CgroupUsages:
    write(V2, tmp_path, "pods/one")
    return CgroupUsages(Fake({"": str(tmp_path)}, 2))


@pytest.fixture
def v1(tmp_path: Path) -> CgroupUsages:
    write(V1, tmp_path, "pods/one")
    names = ("cpuacct", "cpu", "memory", "pids", "blkio", "hugetlb")
    return CgroupUsages(Fake({"": f"{tmp_path}/unified", **{name: f"{tmp_path}/{name}" for name in names}}, 1))


# --- whole cgroups ---------------------------------------------------------------------------------------------------


def test_version_2(v2: CgroupUsages) -> None:
    found = v2.cgroup("/pods/one")

    assert found is not None
    assert found.cpu_ns == 3_179_955_000
    assert (found.memory_bytes, found.working_set_bytes) == (16 << 20, 10 << 20)
    assert (found.rss_bytes, found.page_faults, found.major_page_faults) == (4 << 20, 5000, 7)
    assert (found.memory_limit_bytes, found.swap_bytes, found.swap_limit_bytes) == (64 << 20, 4096, None)
    assert found.cpu_pressure == Pressure(Stalled(88.16, 51.5, 16.77, 169156715), Stalled(0.0, 0.28, 0.71, 9))
    assert found.memory_pressure == Pressure(Stalled(0, 0, 0, 0), None)
    assert found.io_pressure is None


def test_version_2_in_detail(v2: CgroupUsages) -> None:
    found = v2.details("/pods/one")

    assert found is not None
    assert (found.user_ns, found.system_ns) == (1_375_847_000, 1_804_107_000)
    assert (found.periods, found.throttled_periods, found.throttled_ns) == (40, 3, 1_500_000_000)
    assert (found.quota_us, found.period_us, found.shares) == (20_000, 100_000, 998)
    assert (found.cache_bytes, found.mapped_file_bytes, found.kernel_bytes) == (8 << 20, 2 << 20, 1 << 20)
    assert (found.max_memory_bytes, found.limit_hits, found.oom_kills) == (20 << 20, 5, 2)
    assert (found.reservation_bytes, found.threads, found.threads_max) == (1 << 20, 12, None)
    assert found.io[0] == DeviceIo(
        major=253, minor=0, name=found.io[0].name, read_bytes=4096, write_bytes=8192, reads=1, writes=2
    )
    assert len(found.io) == 1
    assert found.huge_pages == (HugePages(size="2MB", bytes=2 << 20),)


def test_version_1(v1: CgroupUsages) -> None:
    found = v1.cgroup("/pods/one")

    assert found is not None
    assert found.cpu_ns == 3_179_955_123
    assert (found.memory_bytes, found.working_set_bytes) == (16 << 20, 10 << 20)
    assert (found.rss_bytes, found.page_faults, found.major_page_faults) == (4 << 20, 5000, 7)
    assert (found.memory_limit_bytes, found.swap_bytes, found.swap_limit_bytes) == (64 << 20, 4096, 32 << 20)
    assert found.cpu_pressure is not None, "the v2 half of a hybrid has it"
    assert found.memory_pressure is None


def test_version_1_in_detail(v1: CgroupUsages) -> None:
    found = v1.details("/pods/one")

    assert found is not None
    assert (found.user_ns, found.system_ns) == (1_375_847_000, 1_804_107_000)
    assert (found.periods, found.throttled_periods, found.throttled_ns) == (40, 3, 1_500_000_000)
    assert (found.quota_us, found.period_us, found.shares) == (None, 100_000, 1024)
    assert (found.cache_bytes, found.mapped_file_bytes, found.kernel_bytes) == (8 << 20, 2 << 20, 1 << 20)
    assert (found.max_memory_bytes, found.limit_hits, found.oom_kills) == (20 << 20, 5, 2)
    assert (found.reservation_bytes, found.threads, found.threads_max) == (None, 12, None)
    (disk,) = found.io
    assert (disk.read_bytes, disk.write_bytes, disk.reads, disk.writes) == (4096, 8192, 1, 2)
    assert found.huge_pages == (HugePages(size="2MB", bytes=2 << 20, max_bytes=4 << 20),)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_cgroup_that_is_gone(version: str, request: pytest.FixtureRequest) -> None:
    usages: CgroupUsages = request.getfixturevalue(version)

    assert usages.cgroup("/pods/other") is usages.details("/pods/other") is None
    assert usages.process_count("/pods/other") == 0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_with_any_file_missing_the_rest_is_told(version: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    usages: CgroupUsages = request.getfixturevalue(version)
    whole = usages.cgroup("/pods/one"), usages.details("/pods/one")
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        aside = path.with_name("aside")
        path.rename(aside)
        found = usages.cgroup("/pods/one"), usages.details("/pods/one")
        no_limit = aside.read_text().strip() in ("max", "-1", "9223372036854771712")
        assert (found == whole) == (no_limit or ".rsvd." in path.name), path
        aside.rename(path)
    assert whole == (usages.cgroup("/pods/one"), usages.details("/pods/one"))


@given(st.data())
def test_no_content_is_too_strange(data: Any) -> None:
    """Cut short, garbled, swapped with another file's."""
    contents = [*V2.values(), *V1.values(), NET_DEV.decode(), "\0", "-1", "9" * 30, "a=b=c", ":::: Read 1", "²"]
    content = data.draw(st.sampled_from(contents)).encode()
    cut = data.draw(st.integers(0, len(content)))
    garbled = data.draw(st.binary(max_size=20)).join([content[:cut], content[cut:][::-1]])
    for one in (content[:cut], garbled):
        for parse in (
            text.single, text.limit_v1, text.table, text.pressure, text.quota_v2, text.io_v2, text.interfaces,
            text.open_files_max,
        ):  # fmt: skip
            cast("Any", parse)(one)
        text.io_v1(one, garbled)


# --- single files ----------------------------------------------------------------------------------------------------


def test_numbers() -> None:
    assert text.single(b"12\n") == 12
    assert text.single(b"max\n") is text.single(b"-1\n") is text.single(b"") is text.single(None) is None
    assert text.limit_v1(b"9223372036854771712\n") is None
    assert text.limit_v1(b"4096\n") == 4096
    assert text.whole(b"1" * 21) is None
    assert text.total(None, 3, 4) == 7
    assert text.total(None) is None


def test_pressure_that_is_switched_off_or_cut() -> None:
    assert (
        text.pressure(b"") is text.pressure(None) is text.pressure(b"some avg10=x avg60=0 avg300=0 total=1\n") is None
    )
    cut = text.pressure(PRESSURE[:70])
    assert cut is not None
    assert cut.full is None


def test_interfaces() -> None:
    eth0, odd = text.interfaces(NET_DEV)

    assert eth0 == InterfaceUsage(
        name="eth0", rx_bytes=123456, rx_packets=789, rx_errors=1, rx_dropped=2, tx_bytes=4321, tx_packets=321,
        tx_errors=3, tx_dropped=4,
    )  # fmt: skip
    assert odd.name == "net:1"


def test_interfaces_that_somebody_hostile_made() -> None:
    """Many, of any name: names stay apart, and text."""
    numbers = b" 1" * 16
    many = b"".join(b"  dummy%d:%b\n" % (number, numbers) for number in range(1000))
    assert len(text.interfaces(many)) == text.INTERFACES_MAX
    names = [one.name for one in text.interfaces(b"\xff:%b\n\xfe:%b\n\\xff:%b\n" % (numbers, numbers, numbers))]
    assert len(names) == len(set(names)) == 2
    assert all(name.isprintable() for name in names)


def test_weights_and_shares() -> None:
    assert [text.shares_of_weight(weight) for weight in (1, 39, 10_000)] == [2, 998, 262_144]
    assert text.shares_of_weight(0) is text.shares_of_weight(None) is text.shares_of_weight(10_001) is None


def test_open_files_max() -> None:
    limits = b"Limit  Soft Limit  Hard Limit  Units\nMax cpu time   unlimited unlimited seconds\n"
    assert (
        text.open_files_max(limits + b"Max open files            1024                 524288               files\n")
        == 1024
    )
    assert text.open_files_max(limits + b"Max open files            unlimited            unlimited    files\n") is None
    assert text.open_files_max(limits) is text.open_files_max(b"Max open files") is None


# --- writable layers -------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The monotonic clock, in seconds, which walks by *step* whenever it is looked at."""
    now = SimpleNamespace(s=100.0, step=0.0)

    def monotonic() -> float:
        now.s += now.step
        return float(now.s)

    monkeypatch.setattr("ocid.adapters.writable.time.monotonic", monotonic)
    return now


def test_layers_are_walked_when_they_are_due(tmp_path: Path, clock: SimpleNamespace) -> None:
    layers = WritableLayers(tmp_path, lambda: 7)
    one = str(tmp_path / "one")
    os.makedirs(f"{one}/upper")
    layers.measure()
    small = layers.of(one)
    assert small is not None
    assert (small.at_ns, small.inodes) == (7, 1)
    Path(one, "upper", "file").write_bytes(bytes(100_000))
    layers.measure()
    assert layers.of(one) == small, "not due yet"
    os.mkdir(tmp_path / "two")
    layers.measure()
    assert layers.of(str(tmp_path / "two")) is not None, "a new one is due at once"
    clock.s += 6
    layers.measure()
    grown = layers.of(one)
    assert grown is not None
    assert grown.bytes >= small.bytes + 100_000
    assert grown.inodes == 2
    assert layers.total()[1] == 2


def test_a_layer_that_takes_long_is_walked_less_often(tmp_path: Path, clock: SimpleNamespace) -> None:
    layers = WritableLayers(tmp_path)
    (tmp_path / "slow").mkdir()
    clock.step = 3
    layers.measure()
    clock.step = 0
    first = layers.of(str(tmp_path / "slow"))
    (tmp_path / "slow" / "file").touch()
    clock.s += 50
    layers.measure()
    assert layers.of(str(tmp_path / "slow")) is first, "it rests 20 times as long as it took"
    clock.s += 11
    layers.measure()
    assert layers.of(str(tmp_path / "slow")) is not first


def test_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    layers = WritableLayers(tmp_path)
    (tmp_path / "one").mkdir()
    assert layers.room() is None
    layers.measure()
    (tmp_path / "one").rmdir()
    layers.measure()

    assert layers.of(str(tmp_path / "one")) is None
    assert layers.total() == (0, 0)
    room = layers.room()
    assert room is not None
    assert room.bytes > 0


def test_a_walk_has_an_end(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"d{number}").mkdir()
        (tmp_path / f"d{number}" / "file").touch()
    os.symlink("/", tmp_path / "outside")

    assert measure_tree(str(tmp_path))[1] == 61
    assert measure_tree(str(tmp_path), entries_max=31)[1] == 31
