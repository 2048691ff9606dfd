"""Names of registries and images, logins, and where a login is never sent."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import json
import ssl
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.oci_samples import read

from tandem.errors import RegistryError, SettingError
from tandem.oci import open_registry
from tandem.oci.blobs import digest_of
from tandem.oci.credentials import Credentials, find_credentials
from tandem.oci.remote.client import RemoteRegistry, open_reference
from tandem.oci.remote.login import Login
from tandem.oci.remote.reference import is_plain


@pytest.mark.parametrize(
    "url",
    [
        "registry.example",
        "https://registry.example/app",
        "registry.example/App",
        "registry.example/app:tag",
        "registry.example//app",
        "/app",
        "",
        "user:secret@registry.example/app",
    ],
)
def test_name_of_no_repository_is_refused(url):
    with pytest.raises(SettingError, match="HOST/REPOSITORY") as caught:
        open_registry(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where", "reference"),
    [
        ("python:3.11-slim", "docker.io/library/python", "3.11-slim"),
        ("python", "docker.io/library/python", "latest"),
        ("someone/app:1", "docker.io/someone/app", "1"),
        ("127.0.0.1:5000/base/python:3.11", "127.0.0.1:5000/base/python", "3.11"),
        ("localhost/app", "localhost/app", "latest"),
        (f"reg.example/a/b@sha256:{'0' * 64}", "reg.example/a/b", "sha256:" + "0" * 64),
    ],
)
def test_image_references_are_read_as_docker_reads_them(text, where, reference):
    registry, found = open_reference(text)
    assert (registry.url, found) == (where, reference)


@pytest.mark.parametrize("text", ["", "reg.example/app@sha256:0", "reg.example/App:1", "a b"])
def test_reference_that_is_none_is_refused(text):
    with pytest.raises(SettingError):
        open_reference(text)


@pytest.mark.parametrize(
    ("host", "said", "plain"),
    [
        ("127.0.0.1:5000", "", True),
        ("localhost", "", True),
        ("[::1]:5000", "", True),
        ("registry.example", "", False),
        ("10.0.0.1:5000", "", False),
        ("localhost.example", "", False),
        ("registry.example", "1", True),
        ("registry.example", "other.example,registry.example", True),
        ("registry.example", "other.example", False),
        ("127.0.0.1:5000", "0", False),
    ],
)
def test_http_is_for_loopback_or_where_it_is_set(monkeypatch, host, said, plain):
    monkeypatch.setenv("TANDEM_REGISTRY_INSECURE", said)
    assert is_plain(host) is plain


def test_name_that_does_not_exist_is_one_line_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    slept: list[float] = []
    registry = RemoteRegistry("registry.invalid/app", sleep=slept.append, patience=1)
    with pytest.raises(RegistryError, match=r"its name cannot be resolved|cannot be reached"):
        registry.tags()


def test_credentials_do_not_show_their_password():
    assert "secret" not in repr(Credentials("someone", "secret"))


def test_docker_config_that_is_broken_is_one_clear_line(tmp_path):
    (tmp_path / "config.json").write_text('{"credHelpers": {"reg.example": "does-not-exist"}}')
    with pytest.raises(RegistryError, match=r"the login for reg\.example in .*config\.json"):
        find_credentials("reg.example", {"DOCKER_CONFIG": str(tmp_path), "PATH": str(tmp_path)})


def test_identity_token_of_docker_is_a_refresh_token(tmp_path):
    nobody = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
    config = {"auths": {"reg.example": {"auth": nobody, "identitytoken": "refresh"}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_credentials("reg.example", {"DOCKER_CONFIG": str(tmp_path)})
    assert found.refresh_token == "refresh"


# --- Azure's registry -----------------------------------------------------------------------------

CHALLENGE = 'Bearer realm="https://acme.azurecr.io/oauth2/token",service="acme.azurecr.io"'


class Azure:
    """The token endpoints of an Azure registry, and an account to log in with."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.status = 200
        self.now = 0.0

    def get_token(self, audience: str):
        assert audience == "https://containerregistry.azure.net/.default"
        return type("Token", (), {"token": "account-token"})

    def send(self, method, url, headers, body):
        form = {name: value[0] for name, value in parse_qs((body or b"").decode()).items()}
        self.asked.append((urlsplit(url).path, form))
        if self.status != 200:
            return self.status, b"{}"
        if url.endswith("/oauth2/exchange"):
            return 200, b'{"refresh_token": "registry-refresh"}'
        return 200, json.dumps({"access_token": f"access-{len(self.asked)}"}).encode()

    def login(self) -> Login:
        return Login("acme.azurecr.io", self.send, azure_credential=self, clock=lambda: self.now)


@pytest.fixture
def azure(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("TANDEM_REGISTRY_USERNAME", raising=False)
    return Azure()


def test_azure_account_is_exchanged_for_a_registry_token(azure):
    login = azure.login()
    login.challenged(CHALLENGE, "repository:app:pull,push", None)
    assert login.header("repository:app:pull,push") == "Bearer access-2"
    assert azure.asked == [
        (
            "/oauth2/exchange",
            {
                "grant_type": "access_token",
                "service": "acme.azurecr.io",
                "access_token": "account-token",
            },
        ),
        (
            "/oauth2/token",
            {
                "service": "acme.azurecr.io",
                "scope": "repository:app:pull,push",
                "grant_type": "refresh_token",
                "refresh_token": "registry-refresh",
                "client_id": "tandem",
            },
        ),
    ]


def test_azure_exchange_happens_once_for_many_scopes(azure):
    login = azure.login()
    login.challenged(CHALLENGE, "a", None)
    for scope in ("a", "b", "a"):
        login.header(scope)
    assert [path for path, _ in azure.asked].count("/oauth2/exchange") == 1
    assert [path for path, _ in azure.asked].count("/oauth2/token") == 2
    azure.now = 4000.0
    login.header("a")
    assert [path for path, _ in azure.asked].count("/oauth2/exchange") == 2


def test_azure_account_without_the_role_is_told_which(azure):
    azure.status = 401
    login = azure.login()
    login.challenged(CHALLENGE, "a", None)
    with pytest.raises(RegistryError, match="role AcrPush"):
        login.header("a")


def test_missing_azure_account_says_what_to_do(azure):
    from azure.core.exceptions import ClientAuthenticationError

    def fail(audience: str):
        raise ClientAuthenticationError("no credential\nand much more")

    azure.get_token = fail
    login = azure.login()
    login.challenged(CHALLENGE, "a", None)
    with pytest.raises(RegistryError, match="az login") as caught:
        login.header("a")
    assert "\n" not in str(caught.value)


def test_other_programs_log_in_to_azure_with_the_registry_token(azure):
    found = azure.login().for_others()
    assert found.username == "00000000-0000-0000-0000-000000000000"
    assert found.password == "registry-refresh"


def test_login_is_not_sent_to_a_token_server_without_https(azure):
    challenge = CHALLENGE.replace("https", "http")
    with pytest.raises(RegistryError, match="expected https"):
        azure.login().challenged(challenge, "a", None)


@pytest.mark.parametrize("challenge", ["", "Negotiate", "Digest realm=x"])
def test_login_of_an_unknown_kind_is_said(azure, challenge):
    with pytest.raises(RegistryError, match="expected basic or bearer"):
        azure.login().challenged(challenge, "a", None)


# --- a registry that sends readers elsewhere ------------------------------------------------------


class Server:
    """A small server on loopback; `answer(path, headers)` gives status, headers, body."""

    def __init__(self, answer, certificate: Path | None = None) -> None:
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append((self.path, self.headers.get("Authorization")))
                status, headers, body = answer(self.path, self.headers)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that refuses the certificate
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    running = []

    def start(answer, certificate: Path | None = None) -> Server:
        running.append(Server(answer, certificate))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def test_login_is_not_sent_to_the_storage_that_blobs_come_from(server):
    data = b"content"
    storage = server(lambda path, headers: (200, {}, data))

    def registry(path, headers):
        if not headers.get("Authorization"):
            return 401, {"WWW-Authenticate": 'Basic realm="x"'}, b""
        return 307, {"Location": f"http://{storage.host}/elsewhere?signature=x"}, b""

    front = server(registry)
    found = RemoteRegistry(f"{front.host}/app", credentials=Credentials("a", "b"))
    assert read(found, digest_of(data)) == data
    assert storage.seen == [("/elsewhere?signature=x", None)]


def test_blob_with_other_bytes_is_refused_at_its_end(server):
    front = server(lambda path, headers: (200, {}, b"other"))
    with pytest.raises(RegistryError, match="other bytes"):
        read(RemoteRegistry(f"{front.host}/app"), digest_of(b"content"))


def test_manifest_with_other_bytes_is_refused(server):
    front = server(lambda path, headers: (200, {}, b"{}"))
    with pytest.raises(RegistryError, match="other bytes"):
        RemoteRegistry(f"{front.host}/app").get_manifest(digest_of(b"{ }"))


def test_answer_without_end_is_refused(server, monkeypatch):
    monkeypatch.setattr("tandem.oci.remote.transport.LARGEST_BODY", 1000)
    front = server(lambda path, headers: (200, {}, b" " * 10_000))
    with pytest.raises(RegistryError, match="refused"):
        RemoteRegistry(f"{front.host}/app").tags()


def test_redirection_without_end_is_an_error(server):
    front = server(lambda path, headers: (302, {"Location": path}, b""))
    with pytest.raises(RegistryError, match="redirects for ever"):
        RemoteRegistry(f"{front.host}/app").tags()


def test_tags_come_page_by_page(server):
    def registry(path, headers):
        if "last=b" in path:
            return 200, {}, b'{"tags": ["c"]}'
        link = '</v2/app/tags/list?last=b&n=2>; rel="next"'
        return 200, {"Link": link}, b'{"tags": ["a", "b"]}'

    assert RemoteRegistry(f"{server(registry).host}/app").tags() == ["a", "b", "c"]


@pytest.mark.parametrize("body", [b"no json", b"[]", b'{"tags": 1}', b'{"tags": [1]}'])
def test_list_of_tags_that_is_none_is_an_error(server, body):
    front = server(lambda path, headers: (200, {}, body))
    with pytest.raises(RegistryError, match="list of tags"):
        RemoteRegistry(f"{front.host}/app").tags()


def test_refusal_shows_the_registrys_own_words_on_one_line(server):
    body = json.dumps({"errors": [{"code": "DENIED", "message": "not\nfor you"}]}).encode()
    front = server(lambda path, headers: (403, {}, body))
    with pytest.raises(RegistryError, match="403 DENIED: not for you"):
        RemoteRegistry(f"{front.host}/app").tags()


# --- TLS ------------------------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path) -> Path:
    """A certificate for loopback that nobody knows, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        made.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return path


def test_unknown_certificate_is_refused_at_once(server, certificate, monkeypatch):
    monkeypatch.setenv("TANDEM_REGISTRY_INSECURE", "0")
    front = server(lambda path, headers: (200, {}, b'{"tags": ["a"]}'), certificate)
    with pytest.raises(RegistryError, match="TLS is not accepted") as caught:
        RemoteRegistry(f"{front.host}/app").tags()
    assert "\n" not in str(caught.value)
    assert front.seen == []


def test_certificate_of_a_known_authority_is_accepted(server, certificate, monkeypatch):
    monkeypatch.setenv("TANDEM_REGISTRY_INSECURE", "0")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    front = server(lambda path, headers: (200, {}, b'{"tags": ["a"]}'), certificate)
    assert RemoteRegistry(f"{front.host}/app").tags() == ["a"]


def test_https_asked_of_an_http_registry_says_what_to_set(server, monkeypatch):
    monkeypatch.setenv("TANDEM_REGISTRY_INSECURE", "0")
    front = server(lambda path, headers: (200, {}, b"{}"))
    with pytest.raises(RegistryError, match="TANDEM_REGISTRY_INSECURE"):
        RemoteRegistry(f"{front.host}/app").tags()


def test_reader_is_not_sent_on_from_https_to_http(server, certificate, monkeypatch):
    monkeypatch.setenv("TANDEM_REGISTRY_INSECURE", "0")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    where = {"Location": "http://127.0.0.1:1/elsewhere"}
    front = server(lambda path, headers: (307, where, b""), certificate)
    with pytest.raises(RegistryError, match="without https"):
        read(RemoteRegistry(f"{front.host}/app"), digest_of(b"x"))
