"""How much memory a runtime takes for itself: the PSS of its own processes, by a rule that can be read and checked."""

import os
from dataclasses import dataclass
from pathlib import Path

RULE = """\
counted is the sum of Pss in /proc/PID/smaps_rollup over
  1. the process that listens on the socket (SO_PEERCRED), and its descendants;
  2. every conmon, containerd-shim*, crio-conmon*, catatonit or pause whose command line names the socket's directory
     or a pod or container of this benchmark, and its descendants;
without the workloads (their environment carries {token}) and what descends from them."""

MONITORS = ("conmon", "containerd-shim", "catatonit", "pause")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    name: str
    cmdline: str


def processes() -> dict[int, Process]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
                cmdline = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it ended while we looked
                continue
            name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
            found[int(entry)] = Process(int(entry), int(rest[1]), name, cmdline)
    return found


def own_processes(daemon: int, socket: str, ids: set[str], token: str) -> list[Process]:
    everyone = processes()
    children: dict[int, list[Process]] = {}
    for process in everyone.values():
        children.setdefault(process.parent, []).append(process)
    where = os.path.dirname(os.path.realpath(socket))
    marks = {where + "/", *ids}
    roots = [everyone[daemon]] if daemon in everyone else []
    roots += [p for p in everyone.values() if p.name.startswith(MONITORS) and any(m in p.cmdline for m in marks)]
    own: dict[int, Process] = {}
    while roots:
        process = roots.pop()
        if process.pid not in own and not _is_workload(process.pid, token):
            own[process.pid] = process
            roots += children.get(process.pid, [])
    return list(own.values())


def pss_mib(own: list[Process]) -> float:
    total = 0
    for process in own:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _is_workload(pid: int, token: str) -> bool:
    try:
        return f"{token}=".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return True
