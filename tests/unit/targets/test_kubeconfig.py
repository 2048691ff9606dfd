"""Logins to a cluster: from kubeconfig files, from a pod, from a login program; and what the API
server refuses."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tandem.errors import SettingError, TargetError
from tandem.targets.kubernetes.api import Api, ApiError, Unreachable
from tandem.targets.kubernetes.cluster import Cluster, Credential
from tandem.targets.kubernetes.kubeconfig import log_in


def write(path: Path, context: str, **user: Any) -> Path:
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": context,
                "clusters": [{"name": "c", "cluster": {"server": f"https://{context}:6443/"}}],
                "users": [{"name": f"u-{context}", "user": user}],
                "contexts": [
                    {"name": context, "context": {"cluster": "c", "user": f"u-{context}"}}
                ],
            }
        )
    )
    return path


def env(*files: Path) -> dict[str, str]:
    return {"KUBECONFIG": ":".join(map(str, files)), "PATH": "/usr/bin:/bin"}


def test_the_named_context_is_taken_or_else_the_current_one(tmp_path: Path) -> None:
    first = write(tmp_path / "a", "one", token="secret-1")
    second = write(tmp_path / "b", "two", token="secret-2")
    assert log_in("", env(first, second)).headers() == {"Authorization": "Bearer secret-1"}
    chosen = log_in("two", env(first, second))
    assert chosen.headers() == {"Authorization": "Bearer secret-2"}
    assert chosen.server == "https://one:6443", "what comes first wins, as for kubectl"


def test_a_context_that_is_not_there_is_one_line_with_those_that_are(tmp_path: Path) -> None:
    file = write(tmp_path / "a", "one")
    with pytest.raises(SettingError, match=r"no Kubernetes context 'prod'; there is: one"):
        log_in("prod", env(file))
    with pytest.raises(SettingError, match="there is: none"):
        log_in("prod", env(tmp_path / "missing"))


def test_a_login_program_gives_the_token_and_is_asked_again_when_it_ends(tmp_path: Path) -> None:
    count = tmp_path / "count"
    script = f"""
        echo x >> {count}
        echo '{{"status": {{"token": "t'$(wc -l < {count})'",
                           "expirationTimestamp": "2020-01-01T00:00:00Z"}}}}'
    """
    plugin = {"command": "sh", "args": ["-c", script], "apiVersion": "v1"}
    cluster = log_in("", env(write(tmp_path / "a", "one", exec=plugin)))
    assert cluster.headers() == {"Authorization": "Bearer t1"}
    assert cluster.headers() == {"Authorization": "Bearer t2"}


def test_a_login_program_that_fails_is_named_and_what_it_printed_is_not(tmp_path: Path) -> None:
    plugin = {"command": "sh", "args": ["-c", "echo SECRET; exit 1"]}
    cluster = log_in("", env(write(tmp_path / "a", "one", exec=plugin)))
    with pytest.raises(
        TargetError, match="login program sh gave neither a token nor a client certificate"
    ) as caught:
        cluster.headers()
    assert "SECRET" not in str(caught.value)


def test_aks_is_logged_in_to_through_azure_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import azure.core.credentials
    import azure.identity

    asked = []

    class Credential:
        def get_token(self, scope: str) -> azure.core.credentials.AccessToken:
            asked.append(scope)
            return azure.core.credentials.AccessToken("azure", int(time.time()) + 3600)

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", Credential)
    plugin = {"command": "/opt/kubelogin", "args": ["get-token", "--server-id", "id-1"]}
    cluster = log_in("", env(write(tmp_path / "a", "one", exec=plugin)))
    assert cluster.headers() == {"Authorization": "Bearer azure"}
    cluster.headers()
    assert asked == ["id-1/.default"], "once, as long as it lasts"


def test_in_cluster_is_refused_outside_of_a_pod(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="in-cluster is for pods"):
        log_in("in-cluster", {"TANDEM_SERVICE_ACCOUNT": str(tmp_path)})


def test_a_client_certificate_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("no certificate")
    user = {"client-certificate": "x", "client-key": "x"}
    with pytest.raises(SettingError, match="client certificate is not usable"):
        log_in("", env(write(tmp_path / "a", "one", **user)))


@pytest.fixture
def server() -> Iterator[tuple[Api, list[Any], list[str]]]:
    """An API whose server gives these answers, (status, headers, body), and notes what was
    asked."""
    answers: list[Any] = []
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append(f"{self.command} {self.path}")
            status, headers, body = answers.pop(0) if answers else (404, {}, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode() + b"\n")

        do_PATCH = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        url = f"http://127.0.0.1:{http_server.server_port}"
        cluster = Cluster("context test", url, ssl.create_default_context())
        yield Api(cluster, "prod", patience=1.0), answers, asked
        http_server.shutdown()
        thread.join()


def test_a_missing_permission_is_one_line_with_verb_and_resource(server: Any) -> None:
    api, answers, _ = server
    message = 'deployments.apps "x" is forbidden: User "me" cannot patch resource "deployments"'
    answers.append((403, {}, {"message": message}))
    wanted = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
    with pytest.raises(
        ApiError, match=r"missing permission: patch deployments in namespace prod \(see deploy/"
    ):
        api.apply(wanted, manager="m", force=False)


def test_a_server_that_is_busy_is_asked_again_as_it_says(server: Any) -> None:
    api, answers, asked = server
    answers += [(429, {"Retry-After": "0"}, {}), (503, {}, {}), (200, {}, {"kind": "Service"})]
    assert api.get("Service", "x") == {"kind": "Service"}
    assert asked == ["GET /api/v1/namespaces/prod/services/x"] * 3


def test_what_is_not_there_is_none_and_what_is_refused_is_said(server: Any) -> None:
    api, answers, _ = server
    assert api.get("Pod", "x") is None
    assert api.delete("Pod", "x") is False
    answers.append((422, {}, {"message": "spec is immutable"}))
    with pytest.raises(ApiError, match="get pods/x: spec is immutable"):
        api.get("Pod", "x")


def test_an_api_that_stays_away_is_named(server: Any) -> None:
    cluster = Cluster("context test", "http://127.0.0.1:1", ssl.create_default_context())
    with pytest.raises(Unreachable, match=r"context test at http://127\.0\.0\.1:1 does not answer"):
        Api(cluster, "prod", patience=0.1).get("Pod", "x")


def test_a_watch_goes_on_from_where_it_broke_and_ends_when_that_is_forgotten(server: Any) -> None:
    api, answers, asked = server
    event = {"type": "ADDED", "object": {"metadata": {"resourceVersion": "5", "name": "x"}}}
    gone = {"type": "ERROR", "object": {"code": 410}}
    # Each ends after its line, as a broken connection does.
    answers += [(200, {}, event), (200, {}, gone)]
    found = [
        each["object"]["metadata"]["name"] for each in api.watch("Pod", "1", threading.Event())
    ]
    assert found == ["x"]
    assert "resourceVersion=1" in asked[0] and "resourceVersion=5" in asked[1]


def test_a_token_that_is_refused_is_asked_for_once_more(server: Any) -> None:
    api, answers, _ = server
    tokens = iter(["old", "new"])
    cluster = Cluster(
        "context test", api.cluster.server, api.cluster.tls,
        lambda: Credential(token=next(tokens), until=time.time() + 3600),
    )  # fmt: skip
    answers += [(401, {}, {}), (200, {}, {"kind": "Pod"})]
    assert Api(cluster, "prod").get("Pod", "x") == {"kind": "Pod"}
    answers += [(401, {}, {}), (401, {}, {})]
    cluster = Cluster(
        "context test", api.cluster.server, api.cluster.tls, lambda: Credential(token="t")
    )
    with pytest.raises(ApiError, match="does not accept this login"):
        Api(cluster, "prod").get("Pod", "x")
