"""The extension in somebody's app: its routes, its model, and what holds for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from flask import Blueprint, Flask, Response, request
from support.apps import create_app
from support.asking import REPOSITORY, Client, digit
from werkzeug.middleware.proxy_fix import ProxyFix

from tandem.errors import PackageError, SettingError
from tandem.serving import Problem, Tandem
from tandem.serving.discovery import find_app
from tandem.serving.model import load
from tandem.serving.recorded import record
from tandem.serving.settings import Settings, read

FLOWER = {
    "sepal length (cm)": 6.7,
    "sepal width (cm)": 3.0,
    "petal length (cm)": 5.2,
    "petal width (cm)": 2.3,
}


@pytest.fixture
def shop(packages):
    """A client of an app with routes of its own: shop(Flask("shop"), **settings)."""

    def client(app: Flask | None = None, kind: str = "iris", extension=None, **settings) -> Client:
        app = app or shop_app()
        chosen = Settings(model=packages(kind), **settings)
        return Client(create_app(load(packages(kind)), chosen, app=app, extension=extension))

    return client


def shop_app() -> Flask:
    app = Flask("shop", static_folder=None)

    @app.get("/")
    def home() -> str:
        return "welcome"

    @app.get("/items/<int:number>")
    def item(number: int) -> str:
        """One item."""
        return f"item {number}"

    @app.post("/order")
    def order() -> dict[str, int]:
        return {"bytes": len(request.get_data())}

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("hidden-detail")

    @app.get("/parts")
    def parts() -> Response:
        return Response(str(number) for number in range(3))

    return app


def test_an_app_keeps_its_routes_and_gets_the_model_s(shop):
    client = shop()
    assert client.get("/").body == b"welcome"
    assert client.get("/items/7").body == b"item 7"
    assert client.get("/nothing").status == 404
    assert b"<!doctype" in client.get("/nothing").body, "the app's own page for it"
    assert client.post("/score", {"rows": [FLOWER]}).json["predictions"][0]["labels"][0] == (
        "virginica"
    )
    for path in ("/healthz", "/livez", "/readyz", "/version", "/metrics", "/v2"):
        assert client.get(path).status == 200, path
    for name in ("live", "ready", "version", "metrics", "openapi.json", "docs", ""):
        assert client.get(f"/_tandem/{name}").status == 200, name
    assert client.post("/_tandem/score", {"rows": [FLOWER]}).status == 200
    assert client.get("/_tandem/nothing").json["status"] == 404


def test_addresses_that_the_app_has_are_the_app_s(shop):
    app = Flask("own", static_folder=None)
    app.add_url_rule("/version", "version", lambda: "1.2.3")
    app.add_url_rule("/score/", "score", lambda: "my score")
    app.add_url_rule("/v2/items", "items", lambda: "my items")
    app.add_url_rule("/<path:rest>", "rest", lambda rest: f"rest {rest}")
    client = shop(app, model_version=3)
    assert client.get("/version").body == b"1.2.3"
    assert client.get("/score/").body == b"my score"
    assert client.get("/v2/items").body == b"my items"
    assert client.get("/v2/models/iris").body == b"rest v2/models/iris"
    assert client.get("/_tandem/version").json["model"]["version"] == 3
    assert client.get("/_tandem/v2/models/iris").json["versions"] == ["3"]
    assert client.post("/_tandem/score", {"rows": [FLOWER]}).status == 200
    assert client.get("/metrics").status == 200, "more definite than the app's rule for all else"
    paths = client.get("/_tandem/openapi.json").json["paths"]
    assert {"/_tandem/version", "/_tandem/score", "/_tandem/v2", "/version", "/score/"} <= set(
        paths
    )


def test_the_usual_places_can_be_left_alone(shop):
    client = shop(extension={"usual_places": False})
    for path in ("/readyz", "/version", "/metrics", "/score", "/openapi.json", "/v2", "/docs"):
        assert client.get(path).status == 404, path
    assert client.get("/_tandem/ready").status == 200


def test_what_holds_for_scoring_holds_for_the_app_s_routes(shop):
    client = shop(max_body_bytes=1000)
    answer = client.get("/items/7", **{"X-Request-ID": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert "content-security-policy" not in answer.headers, "the app's pages are the app's"
    assert client.ask("POST", "/order", b"x" * 900).json == {"bytes": 900}
    assert client.ask("POST", "/order", b"x" * 1001).status == 413
    assert client.ask("BREW", "/order").status == 501
    client.service.draining.set()
    assert client.get("/").headers["connection"] == "close"
    assert client.get("/readyz").status == 503
    seen = client.get("/metrics").body.decode()
    assert 'tandem_requests_total{path="/items/<int:number>",status="200"} 1.0' in seen
    assert 'tandem_requests_total{path="/order",status="413"} 1.0' in seen


def test_keys_guard_all_routes_but_the_public_ones(shop):
    keys = {"api_keys": read({"TANDEM_API_KEYS": "right-right-right"}).api_keys}
    client = shop(extension={"public": ["/", "/static/"]}, **keys)
    right = {"X-API-Key": "right-right-right"}
    assert client.get("/").status == 200
    assert client.get("/static/page.css").status == 404
    for path in ("/items/7", "//", "/static", "/nothing"):
        assert client.get(path).status == 401, path
    assert client.get("/items/7", **right).status == 200
    assert client.get("/readyz").status == 200


def test_so_many_requests_of_the_app_s_routes_are_worked_on_at_once(shop):
    app, entered, go = Flask("slow", static_folder=None), threading.Semaphore(0), threading.Event()

    @app.get("/slow")
    def slow() -> str:
        entered.release()
        go.wait(10)
        return "done"

    client = shop(app, threads=4, patience_seconds=0.0)
    statuses: list[int] = []
    askers = [
        threading.Thread(target=lambda: statuses.append(client.get("/slow").status))
        for _ in range(3)
    ]
    for each in askers:
        each.start()
        entered.acquire(timeout=10)
    assert client.get("/slow").status == 503
    assert client.get("/readyz").status == 200
    assert client.post("/score", {"rows": [FLOWER]}).status == 200
    go.set()
    for each in askers:
        each.join()
    assert statuses == [200] * 3


def test_an_answer_that_is_made_while_it_is_sent_is_counted_at_its_end(shop):
    client = shop()
    assert client.get("/parts").body == b"012"
    assert 'path="/parts",status="200"} 1.0' in client.get("/metrics").body.decode()
    assert "tandem_requests_busy 1.0" in client.get("/metrics").body.decode()


def test_an_answer_that_breaks_off_is_counted_and_gives_its_place_back(shop):
    app = Flask("breaks", static_folder=None)

    @app.get("/parts")
    def parts() -> Response:
        def made():
            yield "0"
            raise ConnectionError("lost")

        return Response(made())

    client = shop(app, threads=4, patience_seconds=0.0)
    for _ in range(10):
        with pytest.raises(ConnectionError, match="lost"):
            client.get("/parts")
    assert 'path="/parts",status="200"} 10.0' in client.get("/metrics").body.decode()


def test_a_fault_of_the_app_is_the_app_s_to_answer_and_a_test_sees_it(shop):
    app = shop_app()
    client = shop(app)
    answer = client.get("/broken")
    assert answer.status == 500
    assert b"hidden-detail" not in answer.body
    app.testing = True
    with pytest.raises(RuntimeError, match="hidden-detail"):
        client.get("/broken")
    assert client.get("/").status == 200


def asking(app: Flask, tandem: Tandem) -> Flask:
    @app.post("/predict")
    def predict() -> dict[str, object]:
        return {"label": tandem.model.predict(request.get_json())[0].labels[0]}

    return app


def test_an_app_s_own_code_asks_the_model_and_what_it_refuses_is_answered(shop):
    app = shop_app()
    client = shop(asking(app, Tandem(app)))
    assert client.post("/predict", FLOWER).json == {"label": "virginica"}
    answer = client.post("/predict", {"colour": "red"})
    assert (answer.status, "lacks the feature" in answer.json["detail"]) == (422, True)
    assert "tandem_rows_total 1.0" in client.get("/metrics").body.decode()


def test_application_factories_and_blueprints_work(packages):
    tandem = Tandem()

    def create(kind: str) -> Flask:
        app = Flask(kind)
        tandem.init_app(app)
        flowers = Blueprint("flowers", __name__, url_prefix="/flowers")
        flowers.add_url_rule("/name", "name", lambda: tandem.model.name)
        app.register_blueprint(flowers)
        create_app(load(packages(kind)), Settings(model=packages(kind)), app=app)
        return app

    first, second = create("iris"), create("words")
    for _ in range(2):
        assert first.test_client().get("/flowers/name").text == "iris"
        assert second.test_client().get("/flowers/name").text == "words"
    assert tandem.model.name == "words"


def test_an_app_may_be_wrapped_before_and_after(packages):
    app = Flask("wrapped")
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    tandem = Tandem(app)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    create_app(load(packages("iris")), Settings(model=packages("iris")), app=app)
    assert app.test_client().get("/readyz").status_code == 200
    assert tandem.model.task == "classification"


# --- what predict takes and gives ---


def model_of(packages, kind: str):
    app = Flask(kind)
    tandem = Tandem(app)
    create_app(load(packages(kind)), Settings(model=packages(kind)), app=app)
    return tandem.model


def test_predict_takes_what_people_have(packages):
    pandas = pytest.importorskip("pandas")
    model = model_of(packages, "iris")
    row = list(FLOWER.values())
    frame = pandas.DataFrame([dict(reversed(FLOWER.items())) | {"other": 1.0}])
    for given in (row, [row], FLOWER, [FLOWER], np.array(row), np.array([row]), tuple(row), frame):
        answers = model.predict(given)
        assert answers.labels == ["virginica"], given
        assert len(answers) == 1
    assert model.predict(frame.iloc[0]).labels == ["virginica"]
    assert model.predict([row] * 3).probabilities.shape == (3, len(model.labels))
    best = model.predict(row)[0]
    assert best.labels[0] == "virginica"
    with pytest.raises(TypeError, match=r"use \.labels"):
        _ = answers.values
    with pytest.raises(Problem, match="takes 4"):
        model.predict([1.0, 2.0])
    with pytest.raises(Problem, match="empty"):
        model.predict([])


def test_predict_takes_texts_mixed_columns_and_regressions(packages):
    assert model_of(packages, "words").predict("a good day").labels == ["good"]
    assert model_of(packages, "words").predict(["a good day", "bad"]).labels == ["good", "bad"]
    mixed = model_of(packages, "mixed")
    assert mixed.predict(["red", 0.5]).labels == ["yes"]
    assert mixed.predict({"colour": "blue", "size": np.float64(0.5)}).labels == ["no"]
    values = model_of(packages, "diabetes").predict(np.zeros((2, 10))).values
    assert values.shape == (2,)
    assert values[0] == pytest.approx(152.1, abs=0.5)
    digits = model_of(packages, "digits")
    assert digits.predict(np.array(digit(3)[0])).labels == [str(digit(3)[1])]


# --- without a release ---


def test_in_tests_a_recorded_model_answers_without_a_model_file(packages, tmp_path, monkeypatch):
    monkeypatch.delenv("TANDEM_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    record(packages("iris"), tmp_path / "recorded_model")
    app = asking(Flask("tested"), tandem := Tandem())
    tandem.init_app(app)
    answer = app.test_client().post("/predict", json=FLOWER)
    assert answer.json == {"label": "virginica"}
    assert app.test_client().get("/version").json["model"]["runtime"] == "recorded"
    assert sorted(path.name for path in (tmp_path / "recorded_model").iterdir()) == [
        "golden.json",
        "manifest.json",
    ]


@pytest.mark.parametrize("kind", ["digits", "iris", "diabetes", "mixed", "words"])
def test_a_recorded_model_gives_the_recorded_answers(packages, tmp_path, kind):
    from tandem.serving.recorded import load_recorded

    whole = load(packages(kind))
    recorded = load_recorded(record(packages(kind), tmp_path / "recorded"))
    golden = whole.package.golden()
    rows = whole.rows(golden.inputs)
    assert recorded.predict(rows) == pytest.approx(
        np.array(whole.predict(rows)), abs=1e-3, rel=1e-3
    )


def test_the_model_of_the_environment_goes_first(packages, tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_MODEL", str(packages("words")))
    monkeypatch.chdir(tmp_path)
    record(packages("iris"), tmp_path / "recorded_model")
    tandem = Tandem(Flask("tested"))
    assert tandem.model.name == "words"


def test_an_app_without_a_model_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.delenv("TANDEM_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    app = shop_app()
    tandem = Tandem(app)
    client = app.test_client()
    assert client.get("/").text == "welcome"
    assert client.get("/readyz").status_code == 200
    assert client.get("/version").json["model"] is None
    assert client.get("/metrics").status_code == 200
    assert "/score" not in client.get("/openapi.json").json["paths"]
    assert client.post("/score", json={}).status_code == 404
    with pytest.raises(PackageError, match=r"set TANDEM_MODEL .*tandem\.serving\.record"):
        tandem.model.predict([[1]])


def test_an_extension_without_an_app_says_so():
    with pytest.raises(RuntimeError, match=r"use Tandem\(app\)"):
        _ = Tandem().model.name


# --- how an image starts it ---

APP = """
from flask import Flask
from tandem.serving import Tandem

def create_app():
    app = Flask(__name__)
    tandem = Tandem(app)

    @app.post("/flower")
    def flower():
        from flask import request
        return tandem.model.predict(request.get_json()).labels[0]

    return app
"""
LAYOUTS = {
    "app.py": ("app.py", None),
    "wsgi.py": ("wsgi.py", None),
    "a folder without __init__": ("app/app.py", "app.app"),
    "a factory by name": ("src/shop.py", "src.shop:create_app()"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_app_that_flask_would_run_is_served(start, tmp_path, layout, workers):
    path, name = LAYOUTS[layout]
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(APP)
    running = start("iris", app=name, TANDEM_WORKERS=workers)
    answer = running.ask("/flower", json.dumps(FLOWER).encode())
    assert (answer.status, answer.body) == (200, b"virginica")
    assert running.ask("/_tandem/ready").status == 200
    code, out, err = running.stop()
    assert (code, err) == (0, "")
    assert '"path":"/flower"' in out


def test_an_app_without_the_extension_gets_health_and_bounds(start, tmp_path):
    (tmp_path / "app.py").write_text(
        "from flask import Flask\napp = Flask(__name__)\n"
        "app.add_url_rule('/', 'home', lambda: 'plain')\n"
    )
    running = start("iris", app=None, ready=False, TANDEM_MAX_BODY_BYTES="10")
    running.wait_ready("/_tandem/ready")
    assert running.ask("/", b"x" * 11).status == 413
    assert running.ask("/readyz").status == 404
    assert running.ask("/score", b"{}").status == 404
    assert running.stop()[0] == 0


def test_no_app_to_serve_is_said_in_one_line(start, tmp_path):
    running = start("iris", app=None, ready=False)
    _, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 1
    assert err.decode().count("\n") == 1
    assert "no Flask app was found as app.py or wsgi.py" in err.decode()
    assert "python3 -m tandem.serving MODULE:APP" in err.decode()


def test_an_app_that_cannot_be_imported_is_named_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_app.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=r"as broken_app: .*no_such_library"):
        find_app("broken_app")


def test_importing_the_extension_brings_nothing_of_the_pipeline():
    program = (
        "import sys; from tandem.serving import Tandem; "
        "found = {n for n in sys.modules if n.split('.')[0] in ('dagster', 'PIL', 'docker')}; "
        "allowed = ('tandem.serving', 'tandem.model.package'); "
        "ours = {n for n in sys.modules if n.startswith('tandem.')}; "
        "found |= {n for n in ours if not n.startswith(allowed)}; "
        "print(sorted(found - {'tandem.contract', 'tandem.errors', 'tandem.model'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_model_is_recorded_from_the_command_line(packages, tmp_path):
    command = [sys.executable, "-m", "tandem.serving.record", str(packages("iris"))]
    environment = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(tmp_path / "recorded_model/manifest.json").exists()
    done = subprocess.run(
        [*command[:3], "nowhere"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_the_short_way_of_a_plain_question_gives_the_answer_of_the_long_one(shop):
    client = shop()
    body = json.dumps({"rows": [FLOWER]}).encode()
    kind = {"Content-Type": "application/json"}
    short = client.ask("POST", "/score", body, kind)
    long = client.ask("POST", "/score", body, {**kind, "X-Request-ID": "abc"})
    assert (short.status, long.status) == (200, 200)
    assert set(short.headers) == set(long.headers)
    assert short.json["predictions"] == long.json["predictions"]
    assert long.headers["x-request-id"] == "abc"
    assert len(short.headers["x-request-id"]) == 32
    refused = client.ask("POST", "/score", b"{", kind)
    assert (refused.status, refused.json["request_id"]) == (400, refused.headers["x-request-id"])
    seen = client.get("/metrics").body.decode()
    assert 'tandem_requests_total{path="/score",status="200"} 2.0' in seen
    assert 'tandem_requests_total{path="/score",status="400"} 1.0' in seen
    assert "tandem_requests_busy 1.0" in seen
