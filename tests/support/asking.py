"""Asking the service: in this process as a server does, or over HTTP as a process of its own."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).parents[2]


class Answer:
    """What came back: status, headers by lower-case name, body."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks the app in this process, as a WSGI server does."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.service = handle.service

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers = {"Content-Type": "application/json", **(headers or {})}
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SCRIPT_NAME": "",
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.1",
            "HTTP_HOST": "localhost",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body or b""),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
        }
        if body is not None:
            environ["CONTENT_LENGTH"] = str(len(body))
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        seen: dict[str, Any] = {}

        def start(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> None:
            seen["status"] = int(status.split()[0])
            seen["headers"] = {name.lower(): value for name, value in fields}

        parts = self.handle(environ, start)
        content = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        return Answer(seen["status"], seen["headers"], content)

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        return self.ask("POST", path, body)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Running:
    """The server as a process of its own, by default with the example's app."""

    def __init__(
        self,
        folder: Path,
        cwd: Path,
        *,
        confined: Sequence[str] = (),
        app: str | None = "serving.app:app",
        **environment: str,
    ) -> None:
        self.port = int(environment.get("PORT", "0")) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = subprocess.Popen(
            [*confined, sys.executable, "-m", "tandem.serving", *([app] if app else [])],
            cwd=cwd,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(REPOSITORY),
                "TANDEM_MODEL": str(folder),
                "HOST": "127.0.0.1",
                "TANDEM_DRAIN_SECONDS": "0",
                **environment,
                "PORT": str(self.port),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait_ready(self, path: str = "/_tandem/ready") -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"ended: {self.process.communicate()[1].decode()}")
            try:
                if self.ask(path).status == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("not ready after 60 seconds")

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                fields, content, status = answer.headers, answer.read(), answer.status
        except urllib.error.HTTPError as error:
            fields, content, status = error.headers, error.read(), error.code
        return Answer(status, {name.lower(): value for name, value in fields.items()}, content)

    def stop(self) -> tuple[int, str, str]:
        """Exit code, stdout and stderr after SIGTERM (or after it ended by itself)."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    rows, truth = load_digits(return_X_y=True)
    return rows, truth


def digit(number: int) -> tuple[list[float], int]:
    """A row of scikit-learn's digits and what it shows."""
    rows, truth = _digits()
    return rows[number].tolist(), int(truth[number])


def picture_of(row: list[float], size: int = 8, kind: str = "PNG", dark: bool = True) -> str:
    """A digit's row as base64: dark ink on white paper, or bright ink on black."""
    from PIL import Image

    pixels = np.asarray(row, dtype=np.float32).reshape(8, 8) * (255 / 16)
    if dark:
        pixels = 255 - pixels
    image = Image.fromarray(pixels.round().astype(np.uint8))
    if size != 8:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    image.save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()
