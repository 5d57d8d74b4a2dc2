"""How a decode process gives up what it does not need. Linux; called inside that process, after all imports.

Each function says whether it worked: a container may forbid one of them, and the layers stand in for each other.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
from contextlib import suppress

NICENESS = 10

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x10000000, 0x40000000, 0x00010000
_EPERM, _ENOSYS = 1, 38

# System calls that decoding never needs: name -> number on (x86_64, aarch64); None where there is none.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "open": (2, None), "creat": (85, None), "openat": (257, 56), "openat2": (437, 437), "open_by_handle_at": (304, 265),
    "memfd_create": (319, 279), "truncate": (76, 45), "ftruncate": (77, 46), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "unlink": (87, None), "unlinkat": (263, 35), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "mkdir": (83, None), "mkdirat": (258, 34),
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "kill": (62, 129), "tkill": (200, 130), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40),
}  # fmt: skip
_CLONE, _CLONE3 = (56, 220), (435, 435)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32_BIT = 0x40000000


def die_with_parent() -> bool:
    return bool(_libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0)


def step_back() -> None:
    """Yield to the worker and the gateway: whoever reads an answer notices a late token sooner than who waits for the
    first one. The process gets a tenth of a core that others want, and never takes one from them by waking up."""
    os.nice(NICENESS)
    with suppress(OSError):  # some containers forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def isolate_network() -> bool:
    """A network namespace without interfaces, inside a user namespace of its own; the process must be one thread."""
    return bool(_libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0)


def limit_for_good(memory_bytes: int) -> None:
    """Limits that hold for the process's life: address space in all, no file growth, no core, no new descriptors."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    open_files = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))


def limit_for_one_item(memory_bytes: int, cpu_s: int) -> None:
    """Address space in all, and CPU seconds from now; past the latter the kernel ends the process with SIGXCPU."""
    _, most_bytes = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (min(memory_bytes, most_bytes), most_bytes))
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most_s = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, most_s))


def address_space_bytes() -> int:
    """What the process has mapped now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def deny_system_calls() -> bool:
    """A seccomp filter: no new socket, file, process or namespace, no signal to others. Threads stay possible."""
    machine = platform.machine()
    if machine not in _AUDIT_ARCH:
        return False
    program = b"".join(_filter(machine))
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog { unsigned short len; struct sock_filter *filter; }
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    fprog = ctypes.create_string_buffer(header, len(header))
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0) == 0)


def _filter(machine: str) -> list[bytes]:
    """struct sock_filter { u16 code; u8 jump_true; u8 jump_false; u32 k; }, over struct seccomp_data."""
    column = 0 if machine == "x86_64" else 1

    def step(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, k)

    def refuse(number: int, errno: int) -> list[bytes]:
        return [step(_JUMP_EQUAL, number, 0, 1), step(_RETURN, _ERRNO | errno)]

    program = [step(_LOAD, 4), step(_JUMP_EQUAL, _AUDIT_ARCH[machine], 1, 0), step(_RETURN, _KILL_PROCESS)]
    program.append(step(_LOAD, 0))
    if machine == "x86_64":
        program += [step(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1), step(_RETURN, _ERRNO | _ENOSYS)]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program += refuse(number, _EPERM)
    # Without clone3 the C library falls back on clone, whose flags can be looked at: threads yes, processes no.
    program += refuse(_CLONE3[column], _ENOSYS)
    program += [step(_JUMP_EQUAL, _CLONE[column], 0, 3), step(_LOAD, 16)]
    program += [step(_JUMP_SET, _CLONE_THREAD, 1, 0), step(_RETURN, _ERRNO | _EPERM)]
    return [*program, step(_RETURN, _ALLOW)]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
