"""Our default seccomp profile, as data: a list of what is allowed, all else fails with EPERM.

Allowed is what ordinary programs call and the kernel itself guards well. Left out is what reaches the host past its
namespaces (module loading, kexec, raw I/O ports, clocks), what has no namespace (keyrings), or what has long been a
source of kernel exploits and that few containers need (bpf, perf_event_open, userfaultfd, io_uring, new user
namespaces). A rule with ``caps`` applies only to a container that was given the matching capability on purpose.

Source: syscalls(2); capabilities(7); clone(2); seccomp(2).
"""

from __future__ import annotations

from typing import Final

from ocid.domain.spec.seccomp_profile import ArchMap, Condition, SeccompProfile, SyscallArg, SyscallRule

ALLOW: Final = "SCMP_ACT_ALLOW"
ERRNO: Final = "SCMP_ACT_ERRNO"
EPERM: Final = 1
ENOSYS: Final = 38

# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET, linux/sched.h
CLONE_NEW_ANY: Final = 0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000
AF_VSOCK: Final = 40  # talks to the hypervisor, and has no namespace in older kernels

# personality(2): PER_LINUX, PER_LINUX32, either with UNAME26, and "only tell me"; ADDR_NO_RANDOMIZE is not among them.
PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

FILES: Final = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
    fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate
    ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat ioctl lchown lchown32 lgetxattr link linkat
    listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat
    name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64
    setxattr setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee
    truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
"""
EVENTS: Final = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy
    io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll ppoll_time64 pselect6
    pselect6_time64 select signalfd signalfd4
"""
MEMORY: Final = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
    remap_file_pages
"""
PROCESSES: Final = """
    capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getegid getegid32 geteuid
    geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid getppid getpriority getresgid getresgid32
    getresuid getresuid32 getrlimit getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill
    landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr pidfd_open pidfd_send_signal prctl prlimit64 rseq sched_get_priority_max sched_get_priority_min
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
    set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups
    setgroups32 setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid
    setreuid32 setrlimit setsid setuid setuid32 sysinfo tgkill times tkill ugetrlimit uname vfork wait4 waitid waitpid
"""
SIGNALS_AND_LOCKS: Final = """
    alarm futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake pause restart_syscall rt_sigaction
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sigaction sigaltstack signal sigpending sigprocmask sigreturn sigsuspend
"""
TIME: Final = """
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
    timerfd_gettime64 timerfd_settime timerfd_settime64
"""
NETWORK: Final = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg
    send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair
"""
IPC: Final = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64
    mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 shmat shmctl shmdt shmget
"""
ENTROPY: Final = "getrandom"

# Reading other processes: before 4.8 ptrace could rewrite a call after seccomp had judged it.
TRACING: Final = "process_vm_readv process_vm_writev ptrace"
TRACING_KERNEL: Final = "4.8"

BY_ARCHITECTURE: Final = (
    (("arm", "arm64"), "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
    (("amd64",), "arch_prctl modify_ldt"),
    (("386",), "modify_ldt"),
    (("ppc64le",), "swapcontext sync_file_range2"),
    (("riscv64",), "riscv_flush_icache riscv_hwprobe"),
    (("s390x",), "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
)

BY_CAPABILITY: Final = (
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr "
        "move_mount open_tree open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname "
        "setns statmount syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
)

ARCHITECTURES: Final = (
    # Without x32: distributions' kernels have it switched off, and its filter costs 4 ms at every exec.
    ArchMap(architecture="SCMP_ARCH_X86_64", subArchitectures=("SCMP_ARCH_X86",)),
    ArchMap(architecture="SCMP_ARCH_AARCH64", subArchitectures=("SCMP_ARCH_ARM",)),
    ArchMap(architecture="SCMP_ARCH_S390X", subArchitectures=("SCMP_ARCH_S390",)),
    ArchMap(architecture="SCMP_ARCH_MIPSEL64", subArchitectures=("SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64N32")),
    ArchMap(architecture="SCMP_ARCH_X86"),
    ArchMap(architecture="SCMP_ARCH_ARM"),
    ArchMap(architecture="SCMP_ARCH_LOONGARCH64"),
    ArchMap(architecture="SCMP_ARCH_PPC64LE"),
    ArchMap(architecture="SCMP_ARCH_RISCV64"),
)


def _names(*groups: str) -> tuple[str, ...]:
    return tuple(sorted({name for group in groups for name in group.split()}))


def _always() -> tuple[SyscallRule, ...]:
    plain = _names(FILES, EVENTS, MEMORY, PROCESSES, SIGNALS_AND_LOCKS, TIME, NETWORK, IPC, ENTROPY)
    not_vsock = SyscallArg(index=0, value=AF_VSOCK, op="SCMP_CMP_NE")
    personalities = tuple(
        SyscallRule(names=("personality",), action=ALLOW, args=(SyscallArg(index=0, value=value, op="SCMP_CMP_EQ"),))
        for value in PERSONALITIES
    )
    return (
        SyscallRule(names=plain, action=ALLOW),
        SyscallRule(names=_names(TRACING), action=ALLOW, includes=Condition(minKernel=TRACING_KERNEL)),
        SyscallRule(names=("socket",), action=ALLOW, args=(not_vsock,)),
        *personalities,
    )


def _threads() -> tuple[SyscallRule, ...]:
    """clone without new namespaces; clone3, whose flags a filter cannot see, is "not there", so libcs use clone."""

    def no_namespaces(index: int) -> tuple[SyscallArg, ...]:
        return (SyscallArg(index=index, value=CLONE_NEW_ANY, valueTwo=0, op="SCMP_CMP_MASKED_EQ"),)

    admin = ("CAP_SYS_ADMIN",)
    clone = SyscallRule(
        names=("clone",), action=ALLOW, args=no_namespaces(0), excludes=Condition(caps=admin, arches=("s390x",))
    )
    clone_s390 = SyscallRule(  # its first two arguments are swapped
        names=("clone",),
        action=ALLOW,
        args=no_namespaces(1),
        includes=Condition(arches=("s390x",)),
        excludes=Condition(caps=admin),
    )
    clone3 = SyscallRule(names=("clone3",), action=ERRNO, errnoRet=ENOSYS, excludes=Condition(caps=admin))
    return (clone, clone_s390, clone3)


def _sometimes() -> tuple[SyscallRule, ...]:
    by_architecture = tuple(
        SyscallRule(names=_names(names), action=ALLOW, includes=Condition(arches=arches))
        for arches, names in BY_ARCHITECTURE
    )
    by_capability = tuple(
        SyscallRule(names=_names(names), action=ALLOW, includes=Condition(caps=(capability,)))
        for capability, names in BY_CAPABILITY
    )
    return by_architecture + by_capability


DEFAULT_PROFILE: Final = SeccompProfile(
    defaultAction=ERRNO,
    defaultErrnoRet=EPERM,
    archMap=ARCHITECTURES,
    syscalls=_always() + _threads() + _sometimes(),
)
