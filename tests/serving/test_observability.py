"""What an operator sees: metrics with drift, a log of JSON lines, traces."""

from __future__ import annotations

import http.server
import json
import os
import threading

import msgspec
import numpy as np
import pytest
from support.apps import create_app
from support.asking import digit

from tandem.errors import SettingError
from tandem.model.package import Golden
from tandem.serving.drift import drift
from tandem.serving.exposition import text
from tandem.serving.logs import Log
from tandem.serving.memory import shared_memory
from tandem.serving.metrics import Metrics
from tandem.serving.settings import read
from tandem.serving.traces import from_environment


def metrics(client) -> dict[str, float]:
    lines = client.get("/metrics").body.decode().splitlines()
    told = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in told}


def test_requests_rows_and_labels_are_counted(app):
    client = app(release=41, app_commit="ab" * 20, model_version=17)
    row, truth = digit(5)
    client.post("/score", {"rows": [row, row]})
    client.post("/score", {"rows": [[1]]})
    client.get("/nothing-here")
    seen = metrics(client)
    assert seen['tandem_requests_total{path="/score",status="200"}'] == 1
    assert seen['tandem_requests_total{path="/score",status="422"}'] == 1
    assert seen['tandem_requests_total{path="other",status="404"}'] == 1
    assert seen['tandem_request_seconds_count{path="/score"}'] == 2
    assert seen['tandem_request_seconds_bucket{le="+Inf",path="/score"}'] == 2
    assert seen["tandem_rows_total"] == 2
    assert seen[f'tandem_predictions_total{{label="{truth}"}}'] == 2
    (build,) = [name for name in seen if name.startswith("tandem_build_info")]
    for label in ('release="41"', f'commit="{"ab" * 20}"', 'model_version="17"', 'runtime="onnx"'):
        assert label in build
    assert seen['tandem_worker_memory_bytes{worker="0"}'] > 10_000_000


def test_the_format_is_the_one_asked_for(app):
    plain = app().get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    newer = app().get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    assert newer.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("kind", ["digits", "iris", "diabetes", "mixed", "words"])
def test_every_kind_of_model_is_counted(app, packages, kind):
    golden = msgspec.json.decode((packages(kind) / "golden.json").read_bytes(), type=Golden)
    client = app(kind)
    client.post("/score", {"rows": golden.inputs})
    assert metrics(client)["tandem_rows_total"] == len(golden.inputs)


def test_inputs_like_those_of_training_do_not_drift_and_others_do(app):
    from sklearn.datasets import load_iris

    rows = load_iris().data
    client = app("iris")
    client.post("/score", {"rows": rows.tolist()})
    usual = metrics(client)
    assert usual["tandem_input_drift_rows"] == 150
    assert usual["tandem_input_drift_max"] < 0.02
    assert usual["tandem_prediction_drift"] < 0.02
    client = app("iris")
    rows[:, 2] += 10
    client.post("/score", {"rows": rows.tolist()})
    moved = metrics(client)
    assert moved['tandem_input_drift{feature="petal length (cm)"}'] > 0.9
    assert moved['tandem_input_drift{feature="sepal width (cm)"}'] < 0.02
    assert moved["tandem_input_drift_max"] > 0.9


def test_drift_is_zero_where_many_values_are_equal_as_in_training():
    rng = np.random.default_rng(0)
    column = np.where(rng.random(1000) < 0.7, 0.0, rng.random(1000))[:, None].astype(np.float32)
    levels = np.array([0.01, 0.25, 0.5, 0.75, 0.99])
    quantiles = np.quantile(column, levels, axis=0).T
    assert drift(column, levels, quantiles)[0] < 0.01
    assert drift(np.zeros((50, 1), np.float32), levels, quantiles)[0] == pytest.approx(0.25)
    assert drift(np.ones((50, 1), np.float32), levels, quantiles)[0] == pytest.approx(0.99)


def test_the_recent_rows_replace_the_old_ones(app):
    model = app("iris").service.model
    counted = Metrics(model, ["other"])
    for number in range(30):
        rows = np.full((70, 4), number, dtype=np.float64)
        counted.scored(rows, model.predict(rows))
    recent = counted.recent()
    assert len(recent) == counted.window == 1000
    assert recent.min() == 15  # rows 1100 to 2099 of 70 each
    assert (recent == 29).sum() == 70 * 4


def test_workers_count_in_memory_that_they_share(app):
    model = app("iris").service.model
    memory = shared_memory(2)
    first, second = (Metrics(model, ["other"], memory, worker) for worker in (0, 1))
    rows = np.ones((3, 4))
    first.scored(rows, model.predict(rows))
    second.scored(rows, model.predict(rows))
    for worker in (first, second):
        assert b"tandem_rows_total 6.0" in text(worker, {})[0]
        assert len(worker.recent()) == 6


# --- log ---


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def lines(reader: int, count: int) -> list[dict]:
    read = b""
    while read.count(b"\n") < count:
        read += os.read(reader, 65536)
    return [json.loads(line) for line in read.splitlines()]


def test_each_request_is_a_line_with_its_id(app, pipe):
    reader, writer = pipe
    log = Log(writer, "info")
    client = app()
    service = create_app(client.service.model, client.service.settings, log=log)
    client = type(client)(service)
    log.start()
    answer = client.get("/version", **{"X-Request-ID": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    generated = client.post("/score", {}).headers["x-request-id"]
    client.get("/healthz")
    first, second = lines(reader, 2)
    assert first["request_id"] == "abc-1"
    assert (first["method"], first["path"], first["status"]) == ("GET", "/version", 200)
    assert first["time"].endswith("Z")
    assert first["milliseconds"] > 0
    assert (second["status"], second["request_id"]) == (422, generated)


def test_a_log_whose_reader_is_gone_writes_to_nobody_else():
    reader, writer = os.pipe()
    log = Log(writer, "info")
    os.close(writer)
    os.close(reader)
    other_reader, other_writer = os.pipe()  # the kernel gives the same numbers out again
    log.start()
    log("info", "late")
    log.flush()
    os.close(other_writer)
    assert os.read(other_reader, 100) == b""
    os.close(other_reader)


@pytest.mark.parametrize("given", ["a b", "x" * 129, 'a"b', "a\nb", "é"])
def test_ids_that_could_forge_a_line_are_replaced(app, given):
    assert app().get("/version", **{"X-Request-ID": given}).headers["x-request-id"] != given


def test_our_own_fault_is_a_500_without_a_trace_of_it_and_a_line_with_all(app, pipe, monkeypatch):
    reader, writer = pipe
    log = Log(writer, "warning")
    client = app()
    service = create_app(client.service.model, client.service.settings, log=log)
    log.start()

    def broken(rows):
        raise RuntimeError("hidden-detail")

    monkeypatch.setattr(service.service.metrics, "scored", lambda *args: broken(args))
    answer = type(client)(service).post("/score", {"rows": [digit(0)[0]]})
    assert answer.status == 500
    assert b"hidden-detail" not in answer.body
    assert b"Traceback" not in answer.body
    (line,) = lines(reader, 1)
    assert line["level"] == "error"
    assert line["message"] == "RuntimeError: hidden-detail"
    assert "broken" in line["traceback"]
    assert line["request_id"] == answer.json["request_id"]


def test_a_reader_who_sleeps_stops_nobody(pipe):
    _, writer = pipe
    log = Log(writer, "info")
    dropped = []
    log.on_drop = dropped.append
    for _ in range(10_500):
        log("info", "x" * 100)
    assert sum(dropped) == 500
    log.start()
    log.flush(0.1)


# --- traces ---


@pytest.fixture
def collector():
    """An OTLP/HTTP collector on loopback, with what it got."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            got.append((self.path, self.headers["X-Token"], body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    got: list = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_request_is_a_span_of_its_callers_trace(app, collector):
    url, got = collector
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=a%20b",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
    }
    traces = from_environment(environment, {"service.name": "digits"})
    client = app()
    service = create_app(client.service.model, client.service.settings, traces=traces)
    client = type(client)(service)
    traces.start()
    trace, parent = "ab" * 16, "cd" * 8
    client.get("/version", Traceparent=f"00-{trace}-{parent}-01")
    client.get("/version", Traceparent=f"00-{trace}-{parent}-00")
    client.get("/healthz")
    client.post("/score", {})
    traces.stop()
    ((path, token, body),) = got
    assert (path, token) == ("/v1/traces", "a b")
    (resource,) = body["resourceSpans"]
    attributes = {a["key"]: a["value"]["stringValue"] for a in resource["resource"]["attributes"]}
    assert attributes == {"service.name": "digits", "deployment.environment": "test"}
    first, second = resource["scopeSpans"][0]["spans"]
    assert (first["traceId"], first["parentSpanId"]) == (trace, parent)
    assert first["name"] == "GET /version"
    assert int(first["endTimeUnixNano"]) >= int(first["startTimeUnixNano"])
    status = {a["key"]: a["value"] for a in second["attributes"]}["http.response.status_code"]
    assert (second["name"], status) == ("POST /score", {"intValue": "422"})
    assert len(second["traceId"]) == 32


def test_without_an_endpoint_there_are_no_traces():
    assert from_environment({}, {"service.name": "x"}) is None


def test_a_collector_that_is_away_loses_spans_and_nothing_else():
    traces = from_environment(
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, {"service.name": "x"}
    )
    traces.start()
    traces.end(traces.begin(""), "GET /", 200, {})
    traces.stop()
    assert traces.failed == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_TRACES_SAMPLER", "xray"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
    ],
)
def test_wrong_trace_settings_are_named(name, value):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost", name: value}
    with pytest.raises(SettingError, match=name):
        from_environment(environment, {"service.name": "x"})


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")]
)
def test_traces_can_be_switched_off(name, value):
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost", name: value}
    assert from_environment(environment, {"service.name": "x"}) is None


def test_the_variables_for_traces_go_before_those_for_all_signals(collector):
    url, got = collector
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url + "/traces",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-token=all",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-token=traces",
        "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    }
    traces = from_environment(environment, {"service.name": "x"})
    traces.start()
    traces.end(traces.begin(""), "GET /", 200, {})
    traces.stop()
    ((path, token, _),) = got
    assert (path, token) == ("/traces", "traces")


def test_the_sampler_argument_is_the_share_of_new_traces():
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    traces = from_environment(environment, {"service.name": "x"})
    share = sum(traces.begin("") is not None for _ in range(4000)) / 4000
    assert 0.2 < share < 0.3


# --- settings that come from the machine ---


@pytest.mark.parametrize(
    ("files", "workers"),
    [
        ({"cpu.max": "max 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "350000 100000"}, 3),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({}, 1),
    ],
)
def test_workers_follow_the_cpu_limit(tmp_path, files, workers):
    from tandem.serving.settings import cpu_limit, default_workers

    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert default_workers(cpu_limit(tmp_path)) == workers


def test_an_empty_variable_is_not_set():
    assert read({"PORT": "", "TANDEM_RELEASE": " "}).port == 8080
