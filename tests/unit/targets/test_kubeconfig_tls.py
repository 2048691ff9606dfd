"""Logins by client certificate, through a proxy, and to a server with another name, over TLS."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tandem.errors import SettingError, TargetError
from tandem.targets.kubernetes.api import Api, Unreachable
from tandem.targets.kubernetes.kubeconfig import log_in

NAME = "api.cluster.test"


def pair(name: str) -> tuple[str, str]:
    """A certificate for that name, signed by itself, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM).decode(), private.decode()


@pytest.fixture(scope="module")
def of_server() -> tuple[str, str]:
    return pair(NAME)


@pytest.fixture(scope="module")
def of_client() -> tuple[str, str]:
    return pair("me")


@pytest.fixture
def server(of_server: tuple[str, str], of_client: tuple[str, str], tmp_path: Path) -> Iterator[int]:
    """The port of an API that answers with the common name of who is asking; nobody else may."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.connection, ssl.SSLSocket)
            subject = dict(field[0] for field in (self.connection.getpeercert() or {})["subject"])
            body = json.dumps({"by": subject["commonName"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client without the certificate, or that refuses ours."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "server.pem").write_text("\n".join(of_server))
    context.load_cert_chain(tmp_path / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=of_client[0])
    with Server(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


def kubeconfig(
    folder: Path, port: int, authority: str, user: dict[str, Any], **more: str
) -> dict[str, str]:
    cluster = {
        "server": f"https://127.0.0.1:{port}", "tls-server-name": NAME,
        "certificate-authority-data": base64.b64encode(authority.encode()).decode(), **more,
    }  # fmt: skip
    config = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    (folder / "config").write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(folder / "config"), "PATH": "/usr/bin:/bin"}


def plugin(folder: Path, of_client: tuple[str, str]) -> dict[str, Any]:
    """A login program that gives the client's certificate, and keeps what it was told."""
    status = {"clientCertificateData": of_client[0], "clientKeyData": of_client[1]}
    (folder / "credential.json").write_text(json.dumps({"status": status}))
    script = f'printf %s "$KUBERNETES_EXEC_INFO" > {folder}/info; cat {folder}/credential.json'
    return {"command": "sh", "args": ["-c", script], "apiVersion": "client/v1",
            "provideClusterInfo": True}  # fmt: skip


def who(env: dict[str, str]) -> str:
    answer = Api(log_in("", env), "prod", patience=0.1).get("Pod", "x")
    assert answer is not None
    return str(answer["by"])


def test_a_login_program_may_give_a_client_certificate(
    server: int, of_server: tuple[str, str], of_client: tuple[str, str], tmp_path: Path
) -> None:
    env = kubeconfig(tmp_path, server, of_server[0], {"exec": plugin(tmp_path, of_client)})
    assert who(env) == "me"
    info = json.loads((tmp_path / "info").read_text())
    assert info["spec"]["interactive"] is False
    assert info["spec"]["cluster"]["server"] == f"https://127.0.0.1:{server}"
    assert base64.b64decode(info["spec"]["cluster"]["certificate-authority-data"])


def test_a_certificate_without_its_key_is_no_login(
    server: int, of_server: tuple[str, str], of_client: tuple[str, str], tmp_path: Path
) -> None:
    user = {"exec": plugin(tmp_path, (of_client[0], ""))}
    with pytest.raises(TargetError, match="gave neither a token nor a client certificate"):
        who(kubeconfig(tmp_path, server, of_server[0], user))


def test_the_certificate_is_checked_for_the_name_that_the_file_says(
    server: int, of_server: tuple[str, str], of_client: tuple[str, str], tmp_path: Path
) -> None:
    user = {
        name: base64.b64encode(text.encode()).decode()
        for name, text in zip(
            ("client-certificate-data", "client-key-data"), of_client, strict=True
        )
    }
    assert who(kubeconfig(tmp_path, server, of_server[0], user)) == "me"
    other = kubeconfig(tmp_path, server, of_server[0], user, **{"tls-server-name": "other.test"})
    with pytest.raises(Unreachable, match=r"(?i)hostname mismatch"):
        who(other)


def test_the_server_is_reached_through_the_proxy_of_the_file(
    server: int, of_server: tuple[str, str], of_client: tuple[str, str], tmp_path: Path
) -> None:
    asked: list[bytes] = []

    def pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)

    def proxy(listener: socket.socket) -> None:
        client, _ = listener.accept()
        asked.append(client.recv(65536).split(b"\r\n")[0])
        upstream = socket.create_connection(("127.0.0.1", server))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        back = threading.Thread(target=pass_on, args=(upstream, client))
        back.start()
        pass_on(client, upstream)
        upstream.shutdown(socket.SHUT_RDWR)
        back.join()
        for end in (client, upstream):
            end.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=proxy, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        user = {"exec": plugin(tmp_path, of_client)}
        env = kubeconfig(tmp_path, server, of_server[0], user, **{"proxy-url": url})
        api = Api(log_in("", env), "prod", patience=0.1)
        assert (api.get("Pod", "x") or {})["by"] == "me"
        api.close()
        thread.join()
    assert [line.split()[:2] for line in asked] == [[b"CONNECT", f"127.0.0.1:{server}".encode()]]


@pytest.mark.parametrize(
    ("user", "cluster", "problem"),
    [
        ({}, {"proxy-url": "socks5://127.0.0.1:1"}, "socks5 scheme is not supported"),
        ({"auth-provider": {"name": "gcp"}}, {}, "'auth-provider' of a user is not supported"),
        ({"as": "admin"}, {}, "'as' of a user is not supported"),
        ({"username": "me", "password": "x"}, {}, "'username' of a user is not supported"),
        ({"exec": {"command": "ask", "interactiveMode": "Always"}}, {}, "ask asks a person"),
    ],
)
def test_what_is_not_supported_is_one_line(
    of_server: tuple[str, str], tmp_path: Path, user: Any, cluster: Any, problem: str
) -> None:
    with pytest.raises(SettingError, match=problem):
        log_in("", kubeconfig(tmp_path, 1, of_server[0], user, **cluster))
