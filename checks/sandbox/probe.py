"""Tries what a daemon has no business to do, and prints as JSON what it could do: each list is empty or says what the unit's job needs."""

import ctypes
import json
import os
import platform
import socket
import stat
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
OTHER_TREES = ("/proc", "/sys", "/nix")
# Not in libc by name: number on x86_64, on aarch64, arguments.
SYSCALLS = {
    "add_key": (248, 217, b"user", b"probe", b"x", 1, -4),
    "bpf": (321, 280, 0, None, 0),
    "finit_module": (313, 273, -1, b"", 0),
    "kexec_load": (246, 104, 0, 0, None, 0),
    "perf_event_open": (298, 241, ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "userfaultfd": (323, 282, 0),
}


def tree():
    """Every directory and file of its file systems, links not followed."""
    for top, directories, files in os.walk("/"):
        directories[:] = [d for d in directories if os.path.join(top, d) not in OTHER_TREES]
        yield top, files


def could_write():
    """Directories in which it could make a file, and files that it could open for writing."""
    for top, files in tree():
        path = os.path.join(top, ".probe")
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.unlink(path)
            yield top
        except OSError:
            pass
        for file in files:
            path = os.path.join(top, file)
            try:
                if stat.S_ISREG(os.lstat(path).st_mode) or stat.S_ISBLK(os.lstat(path).st_mode):
                    os.close(os.open(path, os.O_WRONLY))
                    yield path
            except OSError:
                pass


def could_read():
    """Files that it could read though not everybody may."""
    for top, files in tree():
        for file in files:
            path = os.path.join(top, file)
            try:
                mode = os.lstat(path).st_mode
                if (stat.S_ISREG(mode) and not mode & stat.S_IROTH) or stat.S_ISBLK(mode):
                    os.close(os.open(path, os.O_RDONLY))
                    yield path
            except OSError:
                pass


def could_see():
    """Processes of others, and what of the kernel's."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            if entry not in ("self", "thread-self"):
                yield f"/proc/{entry}"
        elif os.stat(f"/proc/{entry}").st_uid != os.getuid():
            yield f"process {entry}"
    for name in listed("/home") + listed("/root") + listed("/dev"):
        if name not in ("char", "fd", "full", "hugepages", "log", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
                        "tty", "urandom", "zero", "core", "console"):  # fmt: skip
            yield name


def listed(path):
    try:
        return os.listdir(path)
    except PermissionError:
        return []


def calls():
    """System calls that a service does not need."""
    tried = {
        "adjtime": lambda: libc.settimeofday(ctypes.create_string_buffer(b"\1" * 8 + b"\0" * 8), None),
        "become root": lambda: libc.setuid(0),
        "chroot": lambda: libc.chroot(b"/"),
        "kill init": lambda: libc.kill(1, 0),
        "load a module": lambda: libc.init_module(b"", 0, b""),
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
        "namespace of users": lambda: libc.unshare(0x10000000),
        "namespace of mounts": lambda: libc.unshare(0x20000),
        "nice": lambda: libc.setpriority(0, 0, -5),
        "personality": lambda: libc.personality(0x0040000),
        "ptrace": lambda: libc.ptrace(16, os.getppid(), None, None),
        "realtime": lambda: libc.sched_setscheduler(0, 1, ctypes.create_string_buffer(b"\1\0\0\0")),
        "reboot": lambda: libc.reboot(0x89ABCDEF),  # turns Ctrl+Alt+Delete on, which it is
        "set the host's name": lambda: libc.sethostname(b"probe", 5),
        "set-user-ID": lambda: set_user_id(),
        "swap": lambda: libc.swapoff(b"/nonexistent"),
        "writable and executable memory": lambda: 0 if libc.mmap(None, 4096, 7, 0x22, -1, 0) != -1 else -1,
    }
    libc.mmap.restype = ctypes.c_ssize_t
    libc.mmap.argtypes = [ctypes.c_void_p] + [ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_ssize_t]
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    for name, call in SYSCALLS.items():
        tried[name] = lambda call=call: libc.syscall(call[column], *call[2:])
    refused = (1, 13)  # EPERM, EACCES: any other answer means that the call got through
    for name, call in tried.items():
        ctypes.set_errno(0)
        if call() != -1 or ctypes.get_errno() not in refused:
            yield f"{name} (errno {ctypes.get_errno()})"


def set_user_id():
    path = "/tmp/suid"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    try:
        os.chmod(path, 0o4755)
        return 0
    except OSError as e:
        ctypes.set_errno(e.errno)
        return -1


def could_reach():
    """Kinds of sockets, and a port below 1024."""
    for family in ("AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG", "AF_BLUETOOTH", "AF_CAN", "AF_INET", "AF_INET6", "AF_UNIX"):
        try:
            socket.socket(getattr(socket, family), socket.SOCK_RAW if family in ("AF_NETLINK", "AF_PACKET") else socket.SOCK_STREAM).close()
            yield family
        except OSError as e:
            if e.errno not in (1, 13, 97):
                yield f"{family} ({e})"
    for kind, what in ((socket.SOCK_RAW, "raw IP"), (socket.SOCK_STREAM, "port 80")):
        try:
            with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP if kind == socket.SOCK_RAW else 0) as s:
                s.bind(("", 80))
                yield what
        except OSError:
            pass


def could_start():
    """Units, and programs with the rights of others."""
    for command in (
        ["systemctl", "stop", "neighbour.service"],
        ["systemctl", "kill", "neighbour.service"],
        ["systemctl", "restart", "neighbour.service"],
        ["systemctl", "poweroff"],
        ["systemd-run", "--wait", "true"],
        ["su", "-c", "true"],
        ["mount", "-t", "tmpfs", "none", "/tmp"],
    ):
        if subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=20).returncode == 0:
            yield " ".join(command)


rights = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines())
json.dump(
    {
        "write": sorted(could_write()),
        "read": sorted(could_read()),
        "see": sorted(could_see()),
        "call": sorted(calls()),
        "reach": sorted(could_reach()),
        "start": sorted(could_start()),
        "rights": {name: rights[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")},
    },
    sys.stdout,
)
