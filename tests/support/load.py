"""Constant load on a service, which notes every request that did not get its answer."""

from __future__ import annotations

import http.client
import json
import re
import socket
import socketserver
import subprocess
import threading
import time
from pathlib import Path


class Load:
    """Requests on kept and on fresh connections, for as long as the context lasts."""

    # A source port must not come round within the two minutes that the kernel's connection
    # tracking remembers where it led. Of the 28,000 ports connect() takes the even ones first: at
    # most 117 fresh connections a second from the whole machine to one address.
    PAUSE = 0.02

    def __init__(self, url: str) -> None:
        # Looked up once, as a resolver keeps it: here names are a file, now and then half written.
        host, _, port = url.removeprefix("http://").partition(":")
        self.host = f"{socket.gethostbyname(host)}:{port or 80}"
        self.ended = threading.Event()
        self.words: list[str] = []
        self.failures: list[str] = []
        self.threads = [threading.Thread(target=self.ask, args=(kept,)) for kept in (True, False)]

    def ask(self, kept: bool) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=10)
        while not self.ended.is_set():
            try:
                connection.request("GET", "/version")
                answer = connection.getresponse()
                body = json.loads(answer.read())
                if answer.status != 200:
                    self.failures.append(f"{answer.status}: {body}")
                else:
                    self.words.append(body["model"]["digest"])
            except (OSError, http.client.HTTPException, ValueError) as problem:
                self.failures.append(f"{time.time():.3f}: {problem!r}")
                connection.close()
            if not kept:
                connection.close()
            time.sleep(self.PAUSE)
        connection.close()

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for thread in self.threads:
            thread.join()


class Wrk:
    """wrk with many connections, each asking every few milliseconds, for as long as the context
    lasts."""

    def __init__(
        self, url: str, path: str = "/version", *, connections: int = 2, script: Path | None = None
    ) -> None:
        # Few connections and the lowest priority: what is measured is loss, not speed. (Its `delay`
        # would count each idle connection that is closed as an error.)
        self.argv = ["nice", "-n", "19", "wrk", "-t1", f"-c{connections}", "-d3600s",
                     "--timeout", "10s", *(["-s", str(script)] if script else []),
                     f"{url}{path}"]  # fmt: skip
        self.requests = 0
        self.failures: list[str] = []

    def __enter__(self) -> Wrk:
        self.process = subprocess.Popen(self.argv, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        # wrk prints its summary when it is interrupted.
        self.process.send_signal(2)
        said, _ = self.process.communicate(timeout=30)
        counted = re.search(r"(\d+) requests in", said)
        self.requests = int(counted[1]) if counted else 0
        for line in said.splitlines():
            if re.match(r"\s*(Socket errors|Non-2xx)", line):
                self.failures.append(line.strip())
        if not counted:
            self.failures.append(f"wrk said {said!r}")


class Astray:
    """Takes connections that this machine's packet filter did not lead to a pod, and leads them.

    The load balancer's address is one of the machine's own. While kube-proxy's rules are written,
    now and then a connection slips through untranslated (in a packet capture its SYN is seen on
    `lo`, and the machine itself refuses it): no pod and no rollout has a part in that. Whatever a
    pod refuses, cuts off or answers wrongly still gets to the one who asked.
    """

    def __init__(self, url: str) -> None:
        place = (socket.gethostbyname(url.removeprefix("http://")), 80)
        taken = self.taken = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                taken.append(time.time())
                with socket.create_connection(place, timeout=10) as led:
                    back = threading.Thread(target=_pass_on, args=(led, self.request))
                    back.start()
                    _pass_on(self.request, led)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True

        try:
            self.server: Server | None = Server(place, Handler)
        except OSError:
            self.server = None  # the balancer is elsewhere, as it should be
        else:
            self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> Astray:
        if self.server:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.server:
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()


def _pass_on(source: socket.socket, into: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            into.sendall(data)
        into.shutdown(socket.SHUT_WR)
    except OSError:
        # The other end hears of it as it would have from the pod.
        for side in (source, into):
            side.close()
