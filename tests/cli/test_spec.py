"""``ocid spec``: the command line of generate, and what validate prints and exits with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ocid.cli import spec_text
from ocid.cli.run import main
from ocid.domain.configs import HugepageLimit, IdMapping
from ocid.domain.spec.inputs import ExtraMount, Rlimit
from ocid.domain.spec.options import HOST, Hook
from ocid.errors import InvalidRequest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs ``ocid spec`` in a directory of its own: exit code, output, errors."""
    (tmp_path / "ocid.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    def run_it(*words: str) -> tuple[int, str, str]:
        try:
            code = main(None, ["--config", "ocid.toml", "spec", *words])  # type: ignore[arg-type]
        except SystemExit as usage:
            code = int(usage.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run_it


def generated(run: Run, *words: str) -> dict[str, Any]:
    code, out, err = run("generate", *words)
    assert (code, err) == (0, "")
    spec: dict[str, Any] = json.loads(out)
    return spec


def test_what_is_generated_is_valid(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    assert run("generate", "-o", "config.json", "--hostname", "x", "--", "echo", "--flag")[:2] == (0, "")

    assert run("validate", ".") == (0, "", "")
    assert run("validate", "config.json", "-o", "json")[1] == '{\n  "faults": [],\n  "valid": true\n}\n'
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["echo", "--flag"]


def test_every_option_is_understood(run: Run, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("# comment\n\nFILE=yes\n")
    (tmp_path / "p.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    spec = generated(
        run,
        *(
            "--args",
            "a",
            "--args=-b",
            "--annotation",
            "k=v",
            "--hooks-prestart",
            "/h:x",
            "--hooks-create-runtime",
            "/h",
        ),
        *("-e", "A=1", "--env-file", "env", "-w", "/w", "--uid", "5", "--gid", "6", "--groups", "7", "-t"),
        *("--hostname", "h", "--oom-score-adj", "900", "--rlimits", "nofile=1:2", "--cap-add", "sys_time"),
        *("--cap-drop", "NET_RAW", "--cap-add-ambient", "KILL", "--no-new-privileges", "--seccomp", "p.json"),
        *("--apparmor", "ap", "--selinux-label", "se", "--mount-label", "ml", "--masked-path", "/m"),
        *("--readonly-path", "/r", "--sysctl", "net.a.b=1", "--network", "ns:/n", "--pid", "host", "--ipc", "private"),
        *("--uts", "private", "--cgroupns", "host", "--timens", "private", "--linux-namespace-add", "pid:/p"),
        *("--uidmap", "0:1000:10", "--gidmap", "0:2000:10", "--rootfs", "/root", "--read-only"),
        *("-v", "/s:/d:ro", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m", "--tmpfs", "/u", "--mounts-remove", "/sys"),
        *("--device", "/dev/null:/dev/z:r", "-m", "1g", "--memory-swap", "-1", "--cpu-shares", "9"),
        *("--cpu-quota", "2000", "--cpu-period", "50000", "--cpuset-cpus", "0", "--cpuset-mems", "0"),
        *("--pids-limit", "3", "--cgroups-path", "/cg"),
    )
    process, linux = spec["process"], spec["linux"]

    assert process["args"] == ["a", "-b"]
    assert process["env"][-2:] == ["FILE=yes", "A=1"]
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [6, 7]}
    assert process["capabilities"]["ambient"] == ["CAP_KILL"]
    assert (process["apparmorProfile"], process["selinuxLabel"], process["terminal"]) == ("ap", "se", True)
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ALLOW"
    assert {one["type"]: one.get("path") for one in linux["namespaces"]} == {
        "mount": None, "network": "/n", "uts": None, "ipc": None, "user": None, "time": None, "pid": "/p",
    }  # fmt: skip
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1000, "size": 10}]
    assert linux["resources"]["memory"]["limit"] == 1 << 30
    assert linux["resources"]["cpu"] == {"shares": 9, "quota": 2000, "period": 50000, "cpus": "0", "mems": "0"}
    assert linux["devices"][0]["path"] == "/dev/z"
    mounts = {one["destination"]: one for one in spec["mounts"]}
    assert mounts["/d"]["options"] == ["rbind", "ro", "rprivate"]
    assert mounts["/t"]["options"] == ["size=1m"]
    assert mounts["/u"]["options"] == ["nosuid", "nodev", "noexec"]
    assert "/sys" not in mounts
    assert list(spec["hooks"]) == ["prestart", "createRuntime"]


def test_security_options_are_podmans(run: Run) -> None:
    words = ("seccomp=unconfined", "apparmor=x", "label=l", "no-new-privileges", "unmask=ALL")
    spec = generated(run, *(word for text in words for word in ("--security-opt", text)))

    assert "seccomp" not in spec["linux"]
    assert (spec["process"]["apparmorProfile"], spec["process"]["selinuxLabel"]) == ("x", "l")
    assert spec["process"]["noNewPrivileges"] is True
    assert spec["linux"]["maskedPaths"] == []


def test_a_template_is_read_from_a_file(run: Run, tmp_path: Path) -> None:
    template = generated(run, "--hostname", "theirs", "--annotation", "their=own")
    (tmp_path / "t.json").write_text(json.dumps(template))

    spec = generated(run, "--template", "t.json", "--cwd", "/x")

    assert spec.pop("process") == {**template.pop("process"), "cwd": "/x"}
    assert spec == template


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--uts", "host", "--hostname", "x"), "hostname"),
        (("--sysctl", "kernel.pid_max=1"), "the whole host's"),
        (("--template", "missing"), "missing: No such file"),
        (("--template", "ocid.toml"), "is no JSON"),
        (("--seccomp", "/missing"), "No such file"),
        (("--device", "/dev/missing"), "No such file"),
        (("--device", "/etc/passwd"), "no device node"),
        (("--env-file", "missing"), "No such file"),
        (("-m", "lots"), "wanted bytes"),
        (("--cpus", "2", "--cpu-quota", "5"), "wanted one or the others"),
        (("--security-opt", "systempaths=x"), "unknown"),
        (("-o", "/missing/config.json"), "No such file"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run: Run, words: tuple[str, ...], says: str) -> None:
    code, out, err = run("generate", *words)

    assert (code, out) == (1, "")
    assert err.startswith("ocid: ")
    assert err.count("\n") == 1
    assert says in err


def test_faults_are_one_line_each_with_their_place(run: Run, tmp_path: Path) -> None:
    spec = generated(run)
    spec["process"]["cwd"] = "here"
    spec["linux"]["namespaces"].append({"type": "pid"})
    last = len(spec["linux"]["namespaces"]) - 1
    (tmp_path / "config.json").write_text(json.dumps(spec))

    code, out, _ = run("validate", str(tmp_path))

    assert code == 1
    assert out.splitlines() == [
        "process.cwd: is 'here', wanted an absolute path",
        f"linux.namespaces[{last}].type: is pid once more, wanted each namespace once",
        f"root.path: is '{tmp_path}/rootfs', where nothing is; wanted a directory",
    ]
    code, out, _ = run("validate", "config.json", "--no-host", "-o", "json")
    assert code == 1
    assert json.loads(out)["valid"] is False
    assert json.loads(out)["faults"][0] == {"path": "process.cwd", "message": "is 'here', wanted an absolute path"}


def test_hooks_are_looked_for(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "plain").write_text("")
    run("generate", "-o", "config.json", "--hooks-poststop", f"{tmp_path}/plain", "--hooks-prestart", "/missing")

    code, out, _ = run("validate", ".")

    assert code == 1
    assert out.splitlines() == [
        "hooks.prestart[0].path: is '/missing', where nothing is; wanted a file that can be executed",
        f"hooks.poststop[0].path: is '{tmp_path}/plain', where a file that cannot be executed is; "
        "wanted a file that can be executed",
    ]


def test_a_file_that_cannot_be_read_is_no_fault(run: Run, tmp_path: Path) -> None:
    assert run("validate", "missing") == (2, "", "ocid: missing: No such file or directory\n")
    assert run("validate")[0] == 2  # usage
    (tmp_path / "config.json").write_text("{")
    assert run("validate", ".")[0] == 1


# --- what people write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "text", "means"),
    [
        (lambda text: spec_text.size(text, "-m"), "64m", 64 << 20),
        (lambda text: spec_text.size(text, "-m"), "1kB", 1024),
        (lambda text: spec_text.size(text, "-m"), "-1", -1),
        (spec_text.cpu_quota, "1.5", 150_000),
        (lambda text: spec_text.namespace("net", text), "host", HOST),
        (lambda text: spec_text.namespace("net", text), "/run/ns", "/run/ns"),
        (spec_text.namespace_added, "network:/x", ("network", "/x")),
        (spec_text.id_mapping, "0:5:9", IdMapping(container_id=0, host_id=5, length=9)),
        (spec_text.rlimit, "RLIMIT_CORE=unlimited", Rlimit(kind="RLIMIT_CORE", soft=2**64 - 1, hard=2**64 - 1)),
        (spec_text.hugepages, "2MB:4m", HugepageLimit(page_size="2MB", limit=4 << 20)),
        (spec_text.hook, "/a:b:c", Hook(path="/a", args=("/a", "b", "c"))),
        (spec_text.device, "/dev/a:rw", ("/dev/a", "/dev/a", "rw")),
        (spec_text.device, "/dev/a:/dev/b", ("/dev/a", "/dev/b", "rwm")),
        (spec_text.bind, "/a:/b:bind,rshared,z",
         ExtraMount(destination="/b", source="/a", options=("bind", "rshared"))),
        (spec_text.mount, "type=bind,src=/a,target=/b,readonly,bind-propagation=slave",
         ExtraMount(destination="/b", source="/a", options=("rbind", "ro", "slave"))),
        (spec_text.mount, "type=proc,destination=/proc,nosuid",
         ExtraMount(destination="/proc", source="proc", kind="proc", options=("nosuid",))),
    ],
)  # fmt: skip
def test_texts_mean_what_people_mean(read: Callable[[str], Any], text: str, means: Any) -> None:
    assert read(text) == means


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lambda text: spec_text.size(text, "-m"), "64q"),
        (spec_text.cpu_quota, "0"),
        (spec_text.cpu_quota, "nan"),
        (lambda text: spec_text.pairs([text], "--x"), "=a"),
        (lambda text: spec_text.namespace("net", text), "container:x"),
        (spec_text.namespace_added, "net"),
        (spec_text.namespace_added, "pid:relative"),
        (spec_text.id_mapping, "0:5"),
        (spec_text.id_mapping, "0:5:-1"),
        (spec_text.rlimit, "files=5"),
        (spec_text.rlimit, "nofile"),
        (spec_text.hugepages, "2MB"),
        (spec_text.hook, "relative"),
        (spec_text.device, "null"),
        (spec_text.device, "/dev/a:/dev/b:x"),
        (spec_text.bind, "/a"),
        (spec_text.bind, "/a:b"),
        (spec_text.bind, "/a:/../b"),
        (spec_text.bind, "/a:/b:ro:rw"),
        (spec_text.tmpfs, "x"),
        (spec_text.mount, "type=bind,destination=/x"),
        (spec_text.mount, "type=bind,,source=/a,destination=/x"),
        (spec_text.mount, "type=tmpfs"),
    ],
)
def test_texts_that_mean_nothing_are_refused(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(InvalidRequest):
        read(text)
