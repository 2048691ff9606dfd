"""A target's public port: its proxy opened, found, pointed at an instance, ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, cast

from tandem.errors import TargetError
from tandem.targets.local import proxy as proxy_program
from tandem.targets.local.children import Process, known, process_alive, remember, terminate
from tandem.targets.local.ports import HOST
from tandem.targets.local.state import Instance, ProxyProcess
from tandem.targets.protocol import Say
from tandem.util.files import write_whole


class StablePort:
    """One port of this machine and the proxy that holds it."""

    def __init__(self, scheme: str, port: int, folder: Path) -> None:
        self.scheme = scheme
        self.port = port
        self.log = folder / "logs" / "front.log"
        self.backend_file = folder.absolute() / "backend"
        """Read by the proxy at each connection: the port and token of the instance behind it."""

    @property
    def url(self) -> str:
        """Where users reach the service."""
        return f"http://{HOST}:{self.port}"

    def is_held_by(self, proxy: ProxyProcess | None) -> bool:
        """Whether that proxy runs, and on this port."""
        return proxy is not None and proxy.port == self.port and process_alive(proxy.process)

    def open(self, progress: Say) -> ProxyProcess:
        """Start a proxy, or find the one that a killed deploy did not write down.

        Raises `TargetError` when another program has the port.
        """
        progress(f"opening {self.url}")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as errors:
            start = errors.seek(0, os.SEEK_END)
            child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", proxy_program.__file__),
                    *(HOST, str(self.port), str(self.backend_file)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd="/",
                env={},
                start_new_session=True,
            )
        with cast(IO[bytes], child.stdout) as announcement:
            is_ready = announcement.readline() == proxy_program.READY
        if is_ready:
            return ProxyProcess(self.port, remember(child))
        child.wait()
        for process in self.proxies(self.port):
            return ProxyProcess(self.port, process)
        raise self._port_taken(start)

    def proxies(self, port: int | None = None) -> list[Process]:
        """The proxies of this target (on that port), known by their arguments."""
        import psutil

        ours = []
        for process in psutil.process_iter(["cmdline"]):
            argv = process.info["cmdline"] or []
            reads_our_file = argv[-1:] == [str(self.backend_file)]
            is_a_proxy = reads_our_file and proxy_program.__file__ in argv
            if is_a_proxy and (port is None or argv[-2] == str(port)):
                with contextlib.suppress(OSError):
                    ours.append(known(process.pid))
        return ours

    def end_others(self, proxy: ProxyProcess) -> None:
        """Let every other proxy of this target end with the connections that it has."""
        for process in self.proxies():
            if process.pid != proxy.process.pid:
                terminate(process)

    def point_at(self, instance: Instance | None) -> None:
        """Lead new connections to that instance; None: answer them with 503."""
        if instance is None:
            self.backend_file.unlink(missing_ok=True)
        else:
            write_whole(self.backend_file, f"{instance.port} {instance.token}\n".encode())

    def leads_to(self, *instances: Instance) -> bool:
        """Whether new connections go to one of these."""
        try:
            pointed = self.backend_file.read_text().split()
        except OSError:
            return False
        return pointed in [[str(instance.port), instance.token] for instance in instances]

    def require_open(self, proxy: ProxyProcess | None) -> None:
        """Raise `TargetError` when the proxy has stopped."""
        if not (proxy and process_alive(proxy.process)):
            raise TargetError(f"the proxy of {self.url} has stopped: see {self.log}")

    def _port_taken(self, start: int) -> TargetError:
        with self.log.open("rb") as errors:
            errors.seek(start)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        return TargetError(
            f"TANDEM_TARGET={self.scheme}:{self.port}: "
            f"{lines[-1] if lines else 'the proxy did not start'}; "
            f"free that port or choose another, such as {self.scheme}:{self.port + 1}"
        )
