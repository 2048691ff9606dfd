"""Small images for tests of targets: a standard-library server as a layer, and a registry in
memory."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterator, Mapping

from tandem.oci import CONFIG, LAYER_GZIP, MANIFEST, Descriptor

SERVER = '''
"""Answers like the real service: /readyz, /version, /score; drains on SIGTERM."""
import json, os, pathlib, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = pathlib.Path(os.environ["TANDEM_MODEL"])
WORD = (MODEL / "word.txt").read_text().strip()
print("serving", WORD, flush=True)
if WORD == "crash":
    print("the model is broken", flush=True)
    sys.exit(1)
draining = threading.Event()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments): pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if draining.is_set() or self.headers.get("Connection") == "close":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/readyz":
            down = draining.is_set() or WORD == "never"
            return self.answer(503 if down else 200, {"ready": not down})
        if self.path == "/slow":
            time.sleep(1)
        if self.path == "/environ":
            return self.answer(200, {"environ": dict(os.environ), "path": sys.path})
        self.answer(200, {
            "app": {"name": "small", "commit": os.environ.get("TANDEM_APP_COMMIT", "")},
            "model": {"name": "small", "version": 1, "digest": "sha256:" + WORD, "runtime": "none"},
            "image": {"digest": os.environ.get("TANDEM_IMAGE_DIGEST")},
            "libraries": {},
        })

    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["rows"]
        top = [0.5, 0.1, 0.4] if WORD == "wrong" else [0.7, 0.2, 0.1]
        answer = {"labels": [WORD, "b", "c"], "probabilities": top}
        self.answer(200, {"predictions": [answer for _ in rows], "milliseconds": 0})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def stop(*_):
    draining.set()
    drain = float(os.environ.get("TANDEM_DRAIN_SECONDS", "5"))
    threading.Timer(drain, server.shutdown).start()


server = Server((os.environ.get("HOST", "0.0.0.0"), int(os.environ.get("PORT", "8080"))), Handler)
signal.signal(signal.SIGTERM, stop)
server.serve_forever(poll_interval=0.05)
'''


def layer(files: Mapping[str, str | bytes]) -> bytes:
    """A tar with these files; made the same way each time."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folders = {str(parent) for path in files for parent in _parents(path)}
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, content in sorted(files.items()):
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


class MemoryRegistry:
    """What a target reads of a registry."""

    url = "memory:"
    host = ""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.pulled: list[str] = []

    def reference(self, digest: str) -> str:
        return f"memory:@{digest}"

    def get_blob(self, digest: str) -> Iterator[bytes]:
        self.pulled.append(digest)
        yield self.blobs[digest]

    def get_manifest(self, reference: str) -> tuple[Descriptor, bytes] | None:
        data = self.blobs.get(reference)
        if data is None:
            return None
        return Descriptor(media_type=MANIFEST, digest=reference, size=len(data)), data

    def add(self, data: bytes, media_type: str) -> dict[str, object]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def image(self, layers: list[bytes], **config: object) -> str:
        """Put an image of these tars in; returns its digest."""
        body = {
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in layers],
            },
        }  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.add(json.dumps(body).encode(), CONFIG),
            "layers": [self.add(gzip.compress(tar, 1, mtime=0), LAYER_GZIP) for tar in layers],
        }  # fmt: skip
        return str(self.add(json.dumps(manifest).encode(), MANIFEST)["digest"])

    def small(
        self,
        word: str,
        *,
        python: str = "",
        server: str = SERVER,
        command: tuple[str, ...] = ("python3", "-m", "small"),
    ) -> str:
        """The small service whose model is one word: `crash`, `never` and `wrong` misbehave."""
        python = python or ".".join(platform.python_version_tuple()[:2])
        return self.image(
            [
                layer({"app/lib/library.py": "NAME = 'library'\n"}),
                layer({"app/small/__init__.py": "", "app/small/__main__.py": server}),
                layer({"model/word.txt": word}),
            ],
            Cmd=list(command),
            Env=["PYTHONPATH=/app/lib:/app", "TANDEM_MODEL=/model", "PYTHONDONTWRITEBYTECODE=1",
                 "PATH=/usr/bin:/bin"],
            WorkingDir="/app", User="10001:10001",
            Labels={"tandem.python": python, "tandem.model.version": "1"},
        )  # fmt: skip
