"""What goes wrong with a remote store: one clear line, retried when it helps, never a secret."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import io
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.stores import free_port

from tandem.errors import Conflict, NotFound, StorageError
from tandem.storage import Store, open_store
from tandem.storage.transfer import BLOCK, RANGE

KEY = "c2VjcmV0c2VjcmV0c2VjcmV0"
SIGNATURE = "c2VjcmV0c2lnbmF0dXJl"


class Server(http.server.ThreadingHTTPServer):
    """Answers with what the test wrote down, then with one object; may cut answers off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.content = b""
        self.cut: list[int] = []
        self.etag = '"1"'
        self.asked: list[tuple[str, str, dict[str, str]]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hangs up is part of the test


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def answer(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.rfile.read(int(headers.get("content-length", 0)))
        self.server.asked.append((self.command, self.path, headers))
        if self.server.answers:
            status, extra, body = self.server.answers.pop(0)
        else:
            status, extra, body = self.whole_or_range(headers)
        cut = self.server.cut.pop(0) if self.server.cut and status < 300 else None
        self.send_response(status)
        for name, value in extra.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def whole_or_range(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        told = {
            "ETag": self.server.etag,
            "Last-Modified": "Sat, 21 Nov 2026 00:00:00 GMT",
            "x-ms-blob-type": "BlockBlob",
        }
        if "if-match" in headers and headers["if-match"] != self.server.etag:
            return 412, {"x-ms-error-code": "ConditionNotMet"}, b""
        content = self.server.content
        wanted = headers.get("x-ms-range") or headers.get("range")
        if wanted and (found := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            start, end = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            told["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return 206, told, content[start : end + 1]
        return 201 if self.command == "PUT" else 200, told, content

    do_GET = do_HEAD = do_PUT = do_DELETE = do_POST = answer  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials of the machine that runs the tests."""
    for name in ("CONNECTION_STRING", "SAS_TOKEN", "KEY", "BLOB_ENDPOINT"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)


def azure(monkeypatch: pytest.MonkeyPatch, port: int, account: str = "acct") -> Store:
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{port}/acct;",
    )
    return open_store(f"az://{account}/models")


def s3(monkeypatch: pytest.MonkeyPatch, port: int) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    return open_store("s3://models")


Opener = Callable[[pytest.MonkeyPatch, int], Store]
both = pytest.mark.parametrize("opener", [azure, s3])


def sleeping(store: Store) -> list[float]:
    """How long the store would have slept, instead of sleeping."""
    slept: list[float] = []
    store.sleep = slept.append  # type: ignore[attr-defined]
    return slept


def az_error(status: int, code: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"x-ms-error-code": code, **more}, b""


def s3_error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


def refused(store: Store, operation: Callable[[Store], Any] = lambda s: s.put("k", b"x")) -> str:
    with pytest.raises(StorageError) as raised:
        operation(store)
    text = str(raised.value)
    assert "\n" not in text
    assert KEY not in text
    assert SIGNATURE not in text
    return text


@both
def test_a_throttled_request_waits_as_long_as_it_is_told(
    monkeypatch: pytest.MonkeyPatch, server: Server, opener: Opener
) -> None:
    store = opener(monkeypatch, server.port)
    slept = sleeping(store)
    server.content = b"content"
    server.answers = [(503, {"Retry-After": "7"}, b""), (429, {"Retry-After": "3"}, b"")]
    assert store.read("k") == (b"content", '"1"')
    assert slept == [7, 3]


@both
def test_a_throttled_store_is_given_up_with_one_line(
    monkeypatch: pytest.MonkeyPatch, server: Server, opener: Opener
) -> None:
    store = opener(monkeypatch, server.port)
    slept = sleeping(store)
    server.answers = [(503, {}, b"")] * 99
    assert "throttling" in refused(store)
    assert len(server.asked) == 5
    assert len(slept) == 4
    assert slept[-1] < 10


@both
def test_an_hour_of_waiting_is_told_rather_than_slept(
    monkeypatch: pytest.MonkeyPatch, server: Server, opener: Opener
) -> None:
    store = opener(monkeypatch, server.port)
    slept = sleeping(store)
    server.answers = [(503, {"Retry-After": "3600"}, b"")]
    assert "later" in refused(store)
    assert slept == []


@both
def test_a_server_error_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, server: Server, opener: Opener
) -> None:
    store = opener(monkeypatch, server.port)
    sleeping(store)
    server.content = b"x"
    server.answers = [(500, {}, b""), (502, {}, b"")]
    assert store.read("k")[0] == b"x"


@both
def test_a_store_that_cannot_be_reached_is_named(
    monkeypatch: pytest.MonkeyPatch, opener: Opener
) -> None:
    store = opener(monkeypatch, free_port())
    slept = sleeping(store)
    text = refused(store)
    assert "cannot be reached" in text
    assert store.url in text
    assert len(slept) == 4


@both
def test_a_broken_download_goes_on_where_it_broke_with_the_same_object(
    monkeypatch: pytest.MonkeyPatch, server: Server, opener: Opener
) -> None:
    store = opener(monkeypatch, server.port)
    sleeping(store)
    server.content = hashlib.sha256(b"seed").digest() * (RANGE // 16)
    server.cut = [1000, RANGE // 2]
    assert b"".join(store.get("k")) == server.content
    later = [headers for method, _, headers in server.asked if "if-match" in headers]
    assert later
    assert {headers["if-match"] for headers in later} == {'"1"'}
    starts = {
        (headers.get("x-ms-range") or headers["range"]).split("-")[0]
        for _, _, headers in server.asked
    }
    assert starts == {"bytes=0", f"bytes={RANGE}"}


@both
def test_a_download_of_a_replaced_object_is_a_conflict(
    monkeypatch: pytest.MonkeyPatch, server: Server, opener: Opener
) -> None:
    store = opener(monkeypatch, server.port)
    server.content = bytes(RANGE + 1)
    reader = store.get("k", if_match='"0"')
    with pytest.raises(Conflict):
        next(reader)


# --- Azure


def test_a_missing_container_says_how_to_create_it(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = azure(monkeypatch, server.port)
    server.answers = [az_error(404, "ContainerNotFound")] * 3
    text = refused(store)
    assert "account acct" in text
    assert "az storage container create" in text
    with pytest.raises(StorageError) as raised:
        store.read("k")
    assert not isinstance(raised.value, NotFound)
    with pytest.raises(StorageError):
        store.head("k")


def test_a_missing_permission_names_the_role(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = azure(monkeypatch, server.port)
    server.answers = [az_error(403, "AuthorizationPermissionMismatch")]
    text = refused(store)
    assert "Storage Blob Data Contributor" in text
    assert "acct" in text
    assert len(server.asked) == 1


def test_a_wrong_key_names_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = azure(monkeypatch, server.port)
    server.answers = [az_error(403, "AuthenticationFailed")]
    text = refused(store)
    assert "AZURE_STORAGE_CONNECTION_STRING" in text
    assert "wrong key" in text


def test_a_key_that_is_no_key_is_told(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "x")
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", f"http://127.0.0.1:{server.port}/acct")
    assert "AZURE_STORAGE_KEY" in refused(open_store("az://acct/models"))


def sas(monkeypatch: pytest.MonkeyPatch, server: Server, hours: float) -> Store:
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    token = f"sv=2025-11-05&sp=rl&se={until:%Y-%m-%dT%H:%M:%SZ}&sig={SIGNATURE}"
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", f"http://127.0.0.1:{server.port}/acct")
    return open_store("az://acct/models")


def test_an_expired_sas_says_when_it_expired(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = sas(monkeypatch, server, hours=-1)
    server.answers = [az_error(403, "AuthenticationFailed")]
    text = refused(store)
    assert "expired at" in text
    assert "AZURE_STORAGE_SAS_TOKEN" in text


def test_a_sas_without_the_permission_says_which_are_needed(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = sas(monkeypatch, server, hours=1)
    server.answers = [az_error(403, "AuthorizationPermissionMismatch")]
    assert "lacks a permission" in refused(store)


def test_a_sas_is_not_told_when_the_account_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = sas(monkeypatch, server, hours=1)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", f"http://127.0.0.1:{free_port()}/acct")
    sleeping(store)
    assert "cannot be reached" in refused(store)


def test_no_one_who_may_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    from azure.core.exceptions import ClientAuthenticationError

    class Nobody:
        def get_token(self, *_: Any, **__: Any) -> Any:
            raise ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token")

    monkeypatch.setattr("azure.identity.DefaultAzureCredential", Nobody)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", f"https://127.0.0.1:{server.port}/acct")
    assert "az login" in refused(open_store("az://acct/models"))


def test_the_connection_string_of_another_account_is_not_used(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    azure(monkeypatch, server.port)
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", f"http://127.0.0.1:{server.port}/other")
    open_store("az://other/models").put("k", b"x")
    assert [path.split("?")[0] for _, path, _ in server.asked] == ["/other/models/k"]


# --- S3


def test_a_missing_bucket_is_named(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    store = s3(monkeypatch, server.port)
    server.answers = [s3_error(404, "NoSuchBucket")]
    assert "bucket models does not exist" in refused(store)


def test_missing_permissions_are_listed(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    store = s3(monkeypatch, server.port)
    server.answers = [s3_error(403, "AccessDenied")]
    assert "s3:PutObject" in refused(store)


@pytest.mark.parametrize(
    ("code", "words"),
    [("SignatureDoesNotMatch", "access key was refused"), ("ExpiredToken", "token expired")],
)
def test_wrong_and_expired_credentials_are_told(
    monkeypatch: pytest.MonkeyPatch, server: Server, code: str, words: str
) -> None:
    store = s3(monkeypatch, server.port)
    server.answers = [s3_error(403, code)]
    assert words in refused(store)


def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    store = s3(monkeypatch, server.port)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    assert "no credentials" in refused(store)


def test_an_upload_in_parts_that_fails_is_aborted(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    store = s3(monkeypatch, server.port)
    begun = (
        b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    )
    server.answers = [(200, {}, begun)] + [s3_error(403, "AccessDenied")] * 2
    refused(store, lambda s: s.put("k", io.BytesIO(bytes(BLOCK + 1))))
    assert [method for method, path, _ in server.asked if "uploadId=u1" in path][-1] == "DELETE"
