"""A tiny app with its own repository, store, registry and target, for tests of the whole way.

Its service is a few lines of the standard library that answer the golden questions of whatever
package they are started with, so a build installs nothing and a start costs a tenth of a second.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import random
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from support.repositories import Repository
from tandem import settings as tandem_settings
from tandem.model.publish import publish
from tandem.model.repository import Version
from tandem.model.rules import AcceptanceRule
from tandem.release.app import App
from tandem.release.project import Project

SERVICE = '''
"""Answers the golden questions of the package it is started with."""
import json, os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

folder = os.environ["TANDEM_MODEL"]
golden = json.load(open(os.path.join(folder, "golden.json")))
manifest = json.load(open(os.path.join(folder, "manifest.json")))
answers = {json.dumps(row): p for row, p in zip(golden["inputs"], golden["predictions"])}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.answer(200, {
            "app": {"name": os.environ["TANDEM_APP_NAME"],
                    "commit": os.environ["TANDEM_APP_COMMIT"]},
            "model": {"name": manifest["name"], "version": int(os.environ["TANDEM_MODEL_VERSION"]),
                      "digest": os.environ["TANDEM_MODEL_DIGEST"]},
            "image": {"digest": os.environ.get("TANDEM_IMAGE_DIGEST")},
        })

    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["rows"]
        self.answer(200, {"predictions": [answers[json.dumps(row)] for row in rows]})


class Server(ThreadingHTTPServer):
    daemon_threads = True


server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever()
'''

CHECK = '''
"""The app's tests: red as long as verdict.txt says so."""
import os, sys

red = open("verdict.txt").read().strip() == "red"
target = os.environ["PYTEST_ADDOPTS"].partition("=")[2]
failure = '<failure message="verdict.txt says red"/>' if red else ""
with open(target, "w") as report:
    report.write(f"""<testsuite><testcase classname="tests" name="test_verdict">{failure}</testcase>
<testcase classname="tests" name="test_other"/></testsuite>""")
sys.exit(red)
'''

PYPROJECT = """
[tool.tandem.app]
name = "{name}"
paths = ["app"]
lock = "lock.txt"
test-lock = "lock.txt"
test = ["python", "check.py"]
command = ["python3", "-m", "app"]
extension = true
"""


class Training(msgspec.Struct, frozen=True):
    """Parameters of the tiny model."""

    accuracy: float = 0.99


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection is given."""
    while True:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Tiny:
    """The app in one folder; every setting points below it."""

    def __init__(self, folder: Path, *, name: str = "tiny", **settings: str) -> None:
        self.folder = folder
        self.repository = Repository(folder / "repository")
        self.app = App(
            name=name,
            description="for tests",
            rule=AcceptanceRule(metric="accuracy", floor=0.9),
            training=Training,
            train=self._train,
        )
        self.settings = {
            "TANDEM_STORE": f"file:{folder / 'store'}",
            "TANDEM_REGISTRY": f"oci:{folder / 'images'}",
            "TANDEM_TARGET": f"process:{free_port()}",
            "TANDEM_SOURCE": f"{self.repository.folder}#main",
            "TANDEM_STATE": str(folder / "state"),
            **settings,
        }
        self.project = Project(name, tandem_settings.load(self.settings), self.app.rule)

    @functools.cached_property
    def tandem(self) -> Any:
        """The Dagster resource; imported when it is asked for, because Dagster is slow to start."""
        from tandem.dagster.resources import Tandem

        return Tandem(overrides=self.settings)

    def commit(
        self, text: str = "", *, verdict: str = "green", service: str = SERVICE, model: str = ""
    ) -> str:
        """Commit a version of the app, `model` as TOML of its model; returns the commit's hash."""
        says = f"\n[tool.tandem.app.model]\n{model}\n" if model else ""
        return self.repository.commit(
            {
                "pyproject.toml": PYPROJECT.format(name=self.app.name) + says,
                "lock.txt": "",
                "check.py": CHECK,
                "verdict.txt": verdict,
                "app/__main__.py": service,
                "app/text.txt": text,
            },
            f"say {text}" if text else "change",
        )

    def publish(
        self, accuracy: float = 0.99, publisher: str = "a notebook", **details: Any
    ) -> Version:
        """Publish a model that is right on that share of its held-out rows."""
        given = {"sample": SAMPLE, "held_out": (ROWS, TRUTH), "labels": ["high", "low"]} | details
        return publish(
            onnx_file(accuracy),
            name=self.app.name,
            metrics={"accuracy": accuracy},
            publisher=publisher,
            store=self.project.store,
            progress=False,
            check=False,
            **given,
        )

    def close(self) -> None:
        """Stop what is live and forget everything."""
        self.project.target.stop(progress=lambda _: None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _train(self, parameters: Training, **_: Any) -> Any:
        raise NotImplementedError


SAMPLE = [[0.0, 0.0], [0.1, 0.9], [1.0, 0.0], [0.9, 1.0]]
ROWS = [[0.5, number / 200] for number in range(200)]
TRUTH = ["high" if number >= 100 else "low" for number in range(200)]


@functools.cache
def onnx_file(accuracy: float = 1.0) -> Path:
    """A classifier of two numbers as an ONNX file: it calls a row high from where the second number
    is 0.5, or so much later that it is right on that share of `ROWS`.

    Publishing and judging it needs no scikit-learn, whose import costs more than all the rest.
    """
    from onnx import TensorProto, helper

    threshold = 0.4975 + 1 - accuracy
    slope = 20.0
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["rows", "weights"], ["sum"]),
            helper.make_node("Add", ["sum", "shift"], ["score"]),
            helper.make_node("Softmax", ["score"], ["probabilities"], axis=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, [2, 2], [0, 0, slope, -slope]),
            helper.make_tensor(
                "shift", TensorProto.FLOAT, [2], [-slope * threshold, slope * threshold]
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    folder = tempfile.TemporaryDirectory(prefix="tandem-test-")
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path
