"""The program between us and code that is not ours.

It makes the namespaces, watches the limits and ends all of it. Run as a file of its own, with the
standard library alone.
"""

# As it starts with every run it uses the calls of `os` alone; whatever fails is an answer.
# ruff: noqa: BLE001, PTH103, PTH102, PTH106, PTH110, PTH112, PTH114, PTH115, PTH120, PTH123, PTH208, PTH211
from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from typing import Any, NoReturn

_NEW_USER, _NEW_MOUNTS, _NEW_PIDS = 0x10000000, 0x00020000, 0x20000000
_NEW_NET, _NEW_IPC, _NEW_UTS = 0x40000000, 0x08000000, 0x04000000
_NOSUID, _NODEV, _BIND, _REC, _PRIVATE = 2, 4, 4096, 16384, 1 << 18
_RDONLY, _REMOUNT, _DETACH = 1, 32, 2
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _DROP_BOUND, _NO_NEW_PRIVILEGES, _SUBREAPER = 1, 4, 24, 38, 36
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
_TICK = 0.1
_NAMESPACES = "/proc/sys/user/max_user_namespaces"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    _call("prctl", _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _call(
        f"mount {target}",
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
    )


def _bind(path: str, *, writable: bool, devices: bool = False) -> None:
    """Show `path` of the old root under its own name."""
    source = "/.old" + path
    if os.path.isdir(source):
        os.makedirs(path, exist_ok=True)
    elif not os.path.lexists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(source, path, None, _BIND | _REC)
    attributes = _NOSUID | (0 if devices else _NODEV) | (0 if writable else _RDONLY)
    # Not a remount, which would leave the mounts below as they are.
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    _call(
        f"mount_setattr {path}",
        _libc.syscall(_MOUNT_SETATTR, -100, os.fsencode(path), 0x8000, wanted, len(wanted)),
    )


def _new_root(spec: dict[str, Any]) -> None:
    """Another root with just what the code may see; the old one is gone afterwards."""
    base = spec["base"]
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", base, "tmpfs", _NOSUID | _NODEV, "mode=755,size=16m")
    os.mkdir(f"{base}/.old")
    machine = os.uname().machine
    old = os.fsencode(f"{base}/.old")
    _call("pivot_root", _libc.syscall(_PIVOT_ROOT[machine], os.fsencode(base), old))
    os.chdir("/")
    for name in ("proc", "dev", "tmp", "etc", "var"):
        os.mkdir(name)
    _mount("proc", "/proc", "proc", _NOSUID | _NODEV | 8)
    room = f"mode=1777,size={spec['temporary']}"
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, room)  # noqa: S108 - it is private
    os.symlink("/tmp", "/var/tmp")  # noqa: S108
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        if os.path.exists(f"/.old/dev/{name}"):
            _bind(f"/dev/{name}", writable=True, devices=True)
    os.mkdir("/dev/shm")  # noqa: S108
    _mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, room)  # noqa: S108
    os.mkdir("/dev/pts")
    with contextlib.suppress(OSError):
        data = "newinstance,ptmxmode=0666,mode=620"
        _mount("devpts", "/dev/pts", "devpts", _NOSUID | 8, data)
        os.symlink("pts/ptmx", "/dev/ptmx")
    for name, link in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{link}", f"/dev/{name}")
    for path in spec["system"]:
        if os.path.islink("/.old" + path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.symlink(os.readlink("/.old" + path), path)
        elif os.path.exists("/.old" + path):
            _bind(path, writable=False)
    uid, gid = os.getuid(), os.getgid()
    for name, text in {
        "passwd": f"user:x:{uid}:{gid}::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        "group": f"user:x:{gid}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    }.items():
        with open(f"/etc/{name}", "w", encoding="ascii") as file:
            file.write(text)
    # The shortest first: one that is inside another is laid over it.
    for path, writable in sorted(spec["paths"].items()):
        _bind(path, writable=writable)
    _call("umount", _libc.umount2(b"/.old", _DETACH))
    os.rmdir("/.old")
    _mount("none", "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))


def _drop_capabilities() -> None:
    for capability in range(64):
        if _libc.prctl(_DROP_BOUND, ctypes.c_ulong(capability), 0, 0, 0):
            break
    header = struct.pack("Ii", 0x20080522, 0)
    _libc.capset(header, struct.pack("6I", 0, 0, 0, 0, 0, 0))
    _prctl(_NO_NEW_PRIVILEGES, 1)


def _become(spec: dict[str, Any]) -> NoReturn:
    """Turn into the code that is wanted, with its limits and no privilege."""
    try:
        os.setsid()
        _drop_capabilities()
        for limit, value in (
            (resource.RLIMIT_CORE, 0),
            # What is reserved and never used does not count, as against RLIMIT_AS.
            (resource.RLIMIT_DATA, spec["memory"]),
            (resource.RLIMIT_FSIZE, spec["memory"]),
            (resource.RLIMIT_CPU, int(spec["seconds"] * (os.cpu_count() or 1)) + 1),
        ):
            hard = resource.getrlimit(limit)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (bound, bound))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(spec["folder"])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - its whole purpose
    except OSError as problem:
        os.write(2, f"{spec['argv'][0]}: {problem.strerror}\n".encode())
    os._exit(127)


def _family(root: int | None) -> dict[int, tuple[int, int]]:
    """Threads and bytes of each process of this namespace, or below process `root`."""
    seen: dict[int, tuple[int, int, int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                seen[int(name)] = (int(fields[1]), int(fields[17]), int(fields[21]))
    page = resource.getpagesize()
    if root is None:
        return {pid: (threads, rss * page) for pid, (_, threads, rss) in seen.items() if pid != 1}
    below, grown = {root}, True
    while grown:
        more = {pid for pid, (parent, _, _) in seen.items() if parent in below} - below
        below, grown = below | more, bool(more)
    return {pid: (seen[pid][1], seen[pid][2] * page) for pid in below - {root} if pid in seen}


def _watch(spec: dict[str, Any], root: int | None) -> dict[str, Any]:
    """Start the code as a child and wait for it; ends it when it goes beyond a limit."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGTERM])
    started = time.monotonic()
    child = os.fork()
    if not child:
        _become(spec)
    while True:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return {"error": "the process that was started cannot be waited for"}
            if pid == child:
                return {"code": os.waitstatus_to_exitcode(status), "stopped": ""}
            if not pid:
                break
        family, stopped = _family(root).values(), ""
        if time.monotonic() - started > spec["seconds"]:
            stopped = f"took longer than {spec['seconds']:g} s"
        elif sum(threads for threads, _ in family) > spec["processes"]:
            stopped = f"had more than {spec['processes']} processes and threads"
        elif sum(size for _, size in family) > spec["memory"]:
            stopped = f"used more than {spec['memory'] / 2**30:.3g} GiB of memory"
        if stopped:
            # The others end with this process when it is the first of a namespace.
            return {"code": None, "stopped": stopped}
        got = signal.sigtimedwait([signal.SIGCHLD, signal.SIGTERM], _TICK)
        if got and got.si_signo == signal.SIGTERM:
            return {"code": None, "stopped": "was interrupted"}


def _end_family(root: int) -> None:
    for _ in range(200):
        left = _family(root)
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not left:
            return
        time.sleep(0.02)


def _in_namespaces(spec: dict[str, Any], say: int) -> None:
    uid, gid = os.getuid(), os.getgid()
    kinds = _NEW_USER | _NEW_MOUNTS | _NEW_PIDS | _NEW_IPC | _NEW_UTS
    _call("unshare", _libc.unshare(kinds if spec["network"] else kinds | _NEW_NET))
    # After `unshare`, which clears it.
    _prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    ours, theirs = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    first = os.fork()
    if not first:
        os.close(ours)
        try:
            _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
            _prctl(_SET_DUMPABLE, 0)
            _new_root(spec)
            if not spec["network"]:
                _loopback_up()
            with contextlib.suppress(OSError), open(_NAMESPACES, "w", encoding="ascii") as file:
                file.write("0")
            answer = _watch(spec, None)
        except BaseException as problem:
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        os.write(theirs, json.dumps(answer).encode())
        os._exit(0)
    os.close(theirs)
    if os.getppid() != spec["parent"]:
        os.kill(first, signal.SIGKILL)
    while not os.waitpid(first, os.WNOHANG)[0]:
        if signal.sigwait([signal.SIGCHLD, signal.SIGTERM]) == signal.SIGTERM:
            os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)
            break
    # By now all of its namespace has ended: the kernel reports its first process last.
    os.write(say, os.read(ours, 65536))


def _plainly(spec: dict[str, Any], say: int) -> None:
    _prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
    _prctl(_SUBREAPER, 1)
    _prctl(_SET_DUMPABLE, 0)
    answer = _watch(spec, os.getpid())
    _end_family(os.getpid())
    os.write(say, json.dumps(answer).encode())


def main() -> None:
    """Read what to run from one pipe, and report on the other how it went."""
    wanted, say = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(say, False)
    with os.fdopen(wanted, "rb") as file:
        spec = json.loads(file.read())
    try:
        (_in_namespaces if spec["confined"] else _plainly)(spec, say)
    except BaseException as problem:
        os.write(say, json.dumps({"error": f"{type(problem).__name__}: {problem}"}).encode())


if __name__ == "__main__":
    main()
