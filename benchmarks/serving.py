"""How close the service comes to the cost of the model itself, and how far ahead of peers it is.

Needs wrk for what goes over the network. MLServer and BentoML are installed, in the versions below,
into environments of their own under .tandem/peers; each serves the same model twice, as the
estimator and with ONNX runtime, so that one ratio is the server's alone. `--seconds N` sets how
long each load lasts, `--plot FILE` where the picture goes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import Figures, in_turn

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from support.asking import free_port  # noqa: E402

ROUNDS = 3
CONNECTIONS = 32
"""Enough that a worker always has a request at hand."""
PAUSE = 0.0001
"""Seconds between two calls in process that stand for one connection, which leaves a processor idle
that long between two requests. A loop that only ever calls has all it needs in the caches and the
branch predictors: no request finds them like that, whatever serves it."""


def make_model(folder: Path) -> Any:
    """The example model's kind (a scaler and a network), quickly trained; the estimator itself."""
    import warnings

    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    from tandem.model.writing import write

    rows, truth = load_digits(return_X_y=True)
    model = make_pipeline(MinMaxScaler(), MLPClassifier((256,), max_iter=15, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows, truth)
        write(folder, model, name="digits", sample=rows.astype(np.float32))
    return model


class Server:
    """A service as a process of its own, with the question that it is asked."""

    def __init__(
        self,
        name: str,
        command: list[str],
        port: int,
        ready: str,
        path: str,
        body: bytes,
        **how: Any,
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self.path = path
        self.body = body
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        started = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
            **how,
        )
        self.seconds_to_ready = self._wait(ready, started)

    def _wait(self, ready: str, started: float) -> float:
        while time.perf_counter() - started < 120:
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                urllib.request.urlopen(self.url + ready, timeout=5).read()
                return time.perf_counter() - started
            if self.process.poll() is not None:
                break
            time.sleep(0.005)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace")[-2000:]
        self.stop()
        raise SystemExit(f"{self.name} is not ready: {said}")

    def ask(self) -> Any:
        kind = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + self.path, self.body, kind)
        return json.load(urllib.request.urlopen(request, timeout=30))

    def load(self, seconds: float, connections: int, folder: Path) -> tuple[float, float]:
        """Requests a second and the median latency in seconds, from wrk with one thread."""
        script = folder / f"{self.name.replace(', ', '-')}.lua"
        script.write_text(
            f'wrk.method = "POST"\nwrk.body = {json.dumps(self.body.decode())}\n'
            'wrk.headers["Content-Type"] = "application/json"\n'
            "function done(summary, latency)\n"
            '  io.write(string.format("P50 %d\\n", latency:percentile(50)))\n'
            "end\n"
        )
        command = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", str(script)]
        done = subprocess.run(
            [*command, self.url + self.path], capture_output=True, text=True, check=True
        )
        if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            raise SystemExit(f"{self.name}: {done.stdout}")
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)[1])
        return rate, float(re.search(r"P50 (\d+)", done.stdout)[1]) / 1e6

    def stop(self) -> None:
        # Peers leave children behind when only their parent is told.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()


def ours(package: Path, folder: Path, row: list[float]) -> Server:
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "TANDEM_MODEL": str(package),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TANDEM_WORKERS": "1",
        "TANDEM_DRAIN_SECONDS": "0",
    }
    body = json.dumps({"rows": [row]}).encode()
    command = [sys.executable, "-m", "serving"]
    return Server("tandem", command, port, "/readyz", "/score", body, env=environment, cwd=folder)


PINNED = {
    "mlserver": ("mlserver==1.7.1", "mlserver-sklearn==1.7.1"),
    "bentoml": ("bentoml==1.4.39",),
}
"""What is compared with; the model's own libraries are those that are here."""


def installed(name: str) -> str:
    """The interpreter of a peer's environment, made where it is missing or of other versions."""
    home = REPOSITORY / ".tandem" / "peers" / name
    python, mark = home / "bin" / "python", home / "pinned.txt"
    wanted = [*PINNED[name], *(f"{one}=={version(one)}" for one in SHARED)]
    if not mark.exists() or mark.read_text() != "\n".join(wanted):
        uv = str(Path(sys.executable).with_name("uv"))
        print(f"installing {', '.join(wanted)} …", flush=True)
        subprocess.run([uv, "venv", "--quiet", "--clear", "-p", sys.executable, home], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "-p", python, *wanted], check=True)
        mark.write_text("\n".join(wanted))
    return str(python)


SHARED = ("scikit-learn", "joblib", "onnxruntime")


MLSERVER_ONNX = """
import numpy, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class Digits(MLModel):
    async def load(self) -> bool:
        self.session = onnxruntime.InferenceSession(MODEL)
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[-1].name
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(numpy.float32)
        (answers,) = self.session.run([self.output], {self.input: rows})
        output = NumpyCodec.encode_output("predict_proba", answers)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def mlserver(python: str, model: Path, folder: Path, row: list[float]) -> Server:
    """MLServer in one process: its scikit-learn runtime, or a runtime of its own for ONNX."""
    onnx = model.suffix == ".onnx"
    port, grpc, metrics = free_port(), free_port(), free_port()
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 0,
        "debug": False,
    }
    told = {
        "name": "digits",
        "implementation": "runtime.Digits" if onnx else "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(model)},
    }
    home = folder / f"mlserver{model.suffix}"
    home.mkdir()
    (home / "runtime.py").write_text(MLSERVER_ONNX.replace("MODEL", repr(str(model))))
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(told))
    body = {
        "inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP64", "data": row}],
        "outputs": [{"name": "predict_proba"}],
    }
    command = [python, "-c", "from mlserver.cli import main; main()", "start", str(home)]
    path = "/v2/models/digits/infer"
    return Server(
        "mlserver, ONNX" if onnx else "mlserver",
        command,
        port,
        "/v2/health/ready",
        path,
        json.dumps(body).encode(),
        cwd=home,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(home)},
    )


BENTO = """
import bentoml, joblib, numpy

@bentoml.service(workers=1)
class Digits:
    def __init__(self) -> None:
        self.model = joblib.load(MODEL)

    @bentoml.api
    def score(self, rows: list[list[float]]) -> list[list[float]]:
        return self.model.predict_proba(numpy.asarray(rows)).tolist()
"""
BENTO_ONNX = """
import bentoml, numpy, onnxruntime

@bentoml.service(workers=1)
class Digits:
    def __init__(self) -> None:
        self.session = onnxruntime.InferenceSession(MODEL)
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[-1].name

    @bentoml.api
    def score(self, rows: list[list[float]]) -> list[list[float]]:
        asked = {self.input: numpy.asarray(rows, dtype=numpy.float32)}
        return self.session.run([self.output], asked)[0].tolist()
"""


def bentoml(python: str, model: Path, folder: Path, row: list[float]) -> Server:
    """BentoML with one worker."""
    onnx = model.suffix == ".onnx"
    home = folder / f"bentoml{model.suffix}"
    home.mkdir()
    source = BENTO_ONNX if onnx else BENTO
    (home / "service.py").write_text(source.replace("MODEL", repr(str(model))))
    port = free_port()
    command = [python, "-m", "bentoml", "serve", "service:Digits", "--port", str(port)]
    body = json.dumps({"rows": [row]}).encode()
    environment = {
        **os.environ,
        **ONE_THREAD,
        "BENTOML_DO_NOT_TRACK": "1",
        "BENTOML_HOME": str(home / "home"),
    }
    command += ["--host", "127.0.0.1"]
    name = "bentoml, ONNX" if onnx else "bentoml"
    return Server(name, command, port, "/readyz", "/score", body, cwd=home, env=environment)


# One worker each, and one thread for its sums: several would wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PEERS = {"mlserver": (mlserver, ">= 5"), "bentoml": (bentoml, ">= 10")}
"""Those that serve the estimator have goals; with ONNX the ratio is only stated."""


@contextlib.contextmanager
def running(
    package: Path, folder: Path, estimator: Any, row: list[float]
) -> Iterator[list[Server]]:
    """Our service and the peers, each with both kinds of the model."""
    interpreters = {name: installed(name) for name in PEERS}
    servers = [ours(package, folder, row)]
    try:
        # The peers read joblib, and nothing else; this file never leaves the benchmark.
        import joblib

        model = folder / "model.joblib"
        joblib.dump(estimator, model)
        for name, (start, _) in PEERS.items():
            for kind in (model, package / "model.onnx"):
                servers.append(start(interpreters[name], kind, folder, row))
        yield servers
    finally:
        for server in servers:
            server.stop()


def in_process(package: Path, body: bytes) -> Callable[[], bytes]:
    """The same app without a network: what a WSGI server calls."""
    from support.apps import create_app

    from tandem.serving.logs import Log
    from tandem.serving.model import load
    from tandem.serving.settings import Settings

    log = Log(os.open(os.devnull, os.O_WRONLY), "info")
    log.start()
    app = create_app(load(package), Settings(model=package), log=log)
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/score",
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
    }

    def call() -> bytes:
        asked = {**environ, "wsgi.input": io.BytesIO(body)}
        return b"".join(app(asked, lambda status, headers, exc_info=None: None))

    return call


def timed(call: Callable[[], object], seconds: float, pause: float = 0) -> list[float]:
    """The seconds that each call takes, one after the other or with a pause in between."""
    times = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        call()
        times.append(time.perf_counter() - began)
        if pause:
            time.sleep(pause)
    return times


def many(call: Callable[[], object], times: int) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            call()

    return work


def one_prediction(figures: Figures, package: Path, estimator: Any, row: list[float]) -> None:
    import numpy as np

    from tandem.model.package import open_predictor, read

    predictor = open_predictor(read(package))
    given = np.array([row])
    narrow = given.astype(np.float32)
    fast, slow = in_turn(
        [
            many(lambda: predictor.predict(narrow), 1000),
            many(lambda: estimator.predict_proba(given), 100),
        ]
    )
    figures.add("one prediction, ONNX", fast / 1000 * 1e6, "microseconds")
    figures.add("one prediction, predict_proba", slow / 100 * 1e6, "microseconds")
    figures.add("predict_proba / ONNX, one row", slow * 10 / fast, "ratio", ">= 20")


def start_to_ready(figures: Figures, package: Path, folder: Path, row: list[float]) -> None:
    libraries = "import flask, granian, msgspec, numpy, onnxruntime, PIL.Image"
    imports, starts = [], []
    for _ in range(7):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", libraries], check=True)
        imports.append(time.perf_counter() - began)
        server = ours(package, folder, row)
        starts.append(server.seconds_to_ready)
        server.stop()
    figures.add("start to ready", statistics.median(starts), "seconds")
    figures.add("bare import of its libraries", statistics.median(imports), "seconds")
    figures.add(
        "start to ready / bare import",
        statistics.median(starts) / statistics.median(imports),
        "ratio",
        "<= 1.5",
    )


def over_the_network(
    figures: Figures, package: Path, folder: Path, estimator: Any, row: list[float], seconds: float
) -> dict[str, float]:
    rates: dict[str, list[float]] = {}
    middles: dict[str, list[float]] = {}
    with running(package, folder, estimator, row) as servers:
        call = in_process(package, servers[0].body)
        assert (
            json.loads(call())["predictions"][0]["labels"]
            == servers[0].ask()["predictions"][0]["labels"]
        )
        for server in servers:
            server.load(1, CONNECTIONS, folder)
        for _ in range(ROUNDS):
            for server in servers:
                rate, _ = server.load(seconds, CONNECTIONS, folder)
                rates.setdefault(server.name, []).append(rate)
                _, middle = server.load(max(1, seconds / 2), 1, folder)
                middles.setdefault(server.name, []).append(middle)
            times = timed(call, seconds)
            rates.setdefault("in process", []).append(len(times) / seconds)
            middles.setdefault("in process, in a loop", []).append(statistics.median(times))
            times = timed(call, max(1, seconds / 2), pause=PAUSE)
            middles.setdefault("in process", []).append(statistics.median(times))
        memory = urllib.request.urlopen(servers[0].url + "/metrics").read().decode()
    rate = {name: statistics.median(found) for name, found in rates.items()}
    middle = {name: statistics.median(found) for name, found in middles.items()}
    for name, found in rate.items():
        figures.add(f"requests a second, {name}", found, "1/s")
    for name, found in middle.items():
        figures.add(f"p50 at one connection, {name}", found * 1e3, "milliseconds")
    for name, (_, goal) in PEERS.items():
        figures.add(f"requests a second / {name}", rate["tandem"] / rate[name], "ratio", goal)
        onnx = f"{name}, ONNX"
        figures.add(f"requests a second / {onnx}", rate["tandem"] / rate[onnx], "ratio")
    figures.add(
        "requests a second / in process", rate["tandem"] / rate["in process"], "ratio", ">= 0.5"
    )
    figures.add(
        "p50 at one connection / in process",
        middle["tandem"] / middle["in process"],
        "ratio",
        "<= 3",
    )
    figures.add(
        "p50 at one connection / in process, in a loop",
        middle["tandem"] / middle["in process, in a loop"],
        "ratio",
    )
    resident = float(re.search(r'memory_bytes\{worker="0"\} (\S+)', memory)[1])
    figures.add("memory of a worker after the load", resident / 2**20, "MiB")
    return rate


def plot(rates: dict[str, float], path: Path) -> None:
    """Requests a second as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    names = sorted(rates, key=rates.__getitem__)
    colours = ["#4338ca" if name == "tandem" else "#a5a1b2" for name in names]
    bars = axes.barh(names, [rates[name] for name in names], color=colours)
    axes.bar_label(bars, [f"{rates[name]:,.0f}" for name in names], padding=4)
    axes.set(
        xlabel="requests a second, one row each, one worker", xlim=(0, 1.15 * max(rates.values()))
    )
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    print(f"plot: {path}")


def main() -> int:
    """Measure; the exit code counts the goals that were missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--plot", type=Path, default=REPOSITORY / ".tandem/bench-serving.png")
    asked = parser.parse_args()
    figures = Figures("the service: one worker, one row a request; medians within this run")
    rates = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        package = folder / "digits"
        estimator = make_model(package)
        from sklearn.datasets import load_digits

        row = load_digits().data[3].tolist()
        one_prediction(figures, package, estimator, row)
        start_to_ready(figures, package, folder, row)
        if shutil.which("wrk"):
            rates = over_the_network(figures, package, folder, estimator, row, asked.seconds)
        else:
            print("wrk is not installed: nothing is measured over the network")
    missed = figures.show()
    if rates:
        plot(rates, asked.plot)
    return missed


if __name__ == "__main__":
    sys.exit(main())
