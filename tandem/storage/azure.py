"""Azure Blob storage as an object store, through azure-storage-blob.

`az://ACCOUNT/CONTAINER[/PREFIX]`. Who may is asked of the environment, in this order:

    AZURE_STORAGE_CONNECTION_STRING   when it is for ACCOUNT (it also names the endpoint, as
                     Azurite's does)
    AZURE_STORAGE_SAS_TOKEN           a shared access signature
    AZURE_STORAGE_KEY                 the account's key
    otherwise azure-identity          AZURE_CLIENT_ID … , workload identity, managed identity, `az
                     login`

AZURE_STORAGE_BLOB_ENDPOINT names another endpoint than https://ACCOUNT.blob.core.windows.net. The
role that is needed is "Storage Blob Data Contributor" on the container. No secret is ever in a
message.
"""

from __future__ import annotations

import base64
import datetime
import functools
import os
import re
import secrets
import urllib.parse
from collections.abc import Iterator
from typing import Any, BinaryIO

from tandem.errors import Conflict, NotFound, StorageError
from tandem.storage.remote import AGAIN, CONNECT, PAGE, READ, RemoteStore, short
from tandem.storage.store import Progress, Stat
from tandem.storage.transfer import FailedAttempt, retry_after, upload


class AzureStore(RemoteStore):
    """One container, or one prefix in it."""

    def __init__(self, account: str, container: str, prefix: str = "") -> None:
        super().__init__(f"az://{account}/{container}", prefix)
        self.account = account
        self.container = container
        self._how = ""
        self._sas = ""

    def _head(self, key: str) -> Stat:
        properties = self._blob(key).get_blob_properties()
        return Stat(key, properties.size, properties.etag, properties.last_modified.timestamp())

    def _read(self, key: str) -> tuple[bytes, str]:
        stream = self._blob(key).download_blob()
        return stream.readall(), stream.properties.etag

    def _range(self, key: str, at: int, length: int, etag: str | None) -> tuple[bytes, str, str]:
        condition = self._condition(False, etag)
        stream = self._blob(key).download_blob(offset=at, length=length, **condition)
        parts = _Parts()
        stream.readinto(parts)
        return parts.whole(), stream.properties.content_range or "", stream.properties.etag

    def _condition(self, if_absent: bool, if_match: str | None) -> dict[str, Any]:
        from azure.core import MatchConditions

        if if_match is not None:
            return {"etag": if_match, "match_condition": MatchConditions.IfNotModified}
        return {"match_condition": MatchConditions.IfMissing} if if_absent else {}

    def _put(self, key: str, content: bytes, condition: dict[str, Any]) -> str:
        written = self._blob(key).upload_blob(content, overwrite=True, **condition)
        return str(written["etag"])

    def _put_in_blocks(
        self,
        key: str,
        data: BinaryIO,
        first: bytes,
        condition: dict[str, Any],
        progress: Progress | None,
    ) -> Stat:
        from azure.storage.blob import BlobBlock

        blob = self._blob(key)
        # Blocks that are not committed are invisible, and Azure forgets them after a week.
        mark = secrets.token_hex(4)
        sizes = []

        def send(number: int, content: bytes) -> None:
            sizes.append(len(content))
            self._do(key, lambda: blob.stage_block(_block_id(mark, number), content))

        count = upload(data, first, send, progress=progress)
        blocks = [BlobBlock(_block_id(mark, number)) for number in range(count)]
        written = self._do(key, lambda: blob.commit_block_list(blocks, **condition))
        return Stat(key, sum(sizes), written["etag"])

    def _delete(self, key: str) -> object:
        return self._blob(key).delete_blob()

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        marker: str | None = None
        while True:
            pages = self._client.list_blobs(
                name_starts_with=self.prefix + prefix, results_per_page=PAGE
            ).by_page(continuation_token=marker)
            page = self._do(prefix, functools.partial(_page, pages))
            for blob in page:
                key = blob.name.removeprefix(self.prefix)
                if key > after:
                    yield Stat(key, blob.size, blob.etag, blob.last_modified.timestamp())
            marker = pages.continuation_token
            if not marker:
                return

    # --- the account ---

    def _blob(self, key: str) -> Any:
        return self._client.get_blob_client(self.prefix + key)

    def _open(self) -> Any:
        from azure.storage.blob import ContainerClient

        # Retries are ours (transfer.attempt): the SDK's begin at 15 seconds and ignore Retry-After.
        options: dict[str, Any] = {
            "retry_total": 0,
            "connection_timeout": CONNECT,
            "read_timeout": READ,
            "max_single_put_size": 64 * 2**20,
            "max_single_get_size": 32 * 2**20,
        }
        connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").strip()
        try:
            if connection and _account_of(connection) == self.account:
                self._how = "AZURE_STORAGE_CONNECTION_STRING"
                self._sas = _part(connection, "SharedAccessSignature")
                return ContainerClient.from_connection_string(connection, self.container, **options)
            credential = self._credential()
            endpoint = (
                os.environ.get("AZURE_STORAGE_BLOB_ENDPOINT", "").strip()
                or f"https://{self.account}.blob.core.windows.net"
            )
            return ContainerClient(endpoint, self.container, credential=credential, **options)
        except ValueError as problem:
            # The SDK's words may hold a part of the secret.
            kind = type(problem).__name__
            raise StorageError(f"{self.url}: {self._how} is not in its form ({kind})") from None

    def _credential(self) -> Any:
        if sas := os.environ.get("AZURE_STORAGE_SAS_TOKEN", "").strip().lstrip("?"):
            self._how, self._sas = "AZURE_STORAGE_SAS_TOKEN", sas
            from azure.core.credentials import AzureSasCredential

            return AzureSasCredential(sas)
        if key := os.environ.get("AZURE_STORAGE_KEY", "").strip():
            self._how = "AZURE_STORAGE_KEY"
            return {"account_name": self.account, "account_key": key}
        from azure.identity import DefaultAzureCredential

        self._how = "azure-identity"
        return DefaultAzureCredential()

    # --- what went wrong ---

    def _status(self, problem: Exception) -> int | None:
        return getattr(problem, "status_code", None)

    def _explain(self, key: str, problem: Exception) -> FailedAttempt:
        from azure.core import exceptions as azure

        status = self._status(problem)
        headers = getattr(getattr(problem, "response", None), "headers", None) or {}
        code = str(getattr(problem, "error_code", "") or headers.get("x-ms-error-code", ""))
        code = code.rsplit(".", 1)[-1].replace("_", "").lower()
        where = f"{self.url}: account {self.account}"
        if status == 404 and code == "containernotfound":
            return FailedAttempt(
                StorageError(
                    f"{where} has no container {self.container}: create it (az storage container "
                    f"create --account-name {self.account} --name {self.container})"
                )
            )
        if status == 404:
            return FailedAttempt(NotFound(f"{self.url}: no object {key}"))
        if status in (409, 412) and code in _CONFLICTS:
            return FailedAttempt(
                Conflict(f"{self.url}: {key} is there already, or was replaced meanwhile")
            )
        if status == 400 and code == "invalidblocklist":
            # Another upload of the same object was committed: it took away our blocks.
            return FailedAttempt(
                Conflict(f"{self.url}: {key} was written by another at the same moment")
            )
        if status in (401, 403) or isinstance(problem, azure.ClientAuthenticationError):
            return FailedAttempt(StorageError(f"{where}: {self._refused(code, status)}"))
        wait = retry_after(headers.get("Retry-After"))
        if status in AGAIN:
            state = "is throttling" if status in (429, 503) else f"answers {status}"
            asked = f", and asks to wait {wait:.0f} s" if wait else ""
            return FailedAttempt(
                StorageError(f"{where} {state}{asked}; try again later"), True, wait
            )
        if isinstance(problem, azure.ServiceRequestError):
            text = f"{where} cannot be reached ({short(problem)}): check its name, DNS and firewall"
            return FailedAttempt(StorageError(text), True)
        if isinstance(problem, azure.ServiceResponseError | azure.IncompleteReadError):
            text = f"{where} broke off or timed out ({short(problem)}); try again"
            return FailedAttempt(StorageError(text), True)
        if isinstance(problem, OSError):
            return FailedAttempt(StorageError(f"{where}: {short(problem)}"), True)
        if type(problem).__name__ == "AzureSigningError":
            return FailedAttempt(
                StorageError(f"{where}: {self._how} holds a key that is no base64")
            )
        if isinstance(problem, azure.AzureError):
            answer = f"{status} {code}".strip() if status else short(problem)
            return FailedAttempt(StorageError(f"{where} answers {answer} for {key}"))
        raise problem

    def _refused(self, code: str, status: int | None) -> str:
        if self._sas and (expired := _expired(self._sas)):
            return f"the SAS in {self._how} expired at {expired}: make a new one"
        if self._sas and code == "authorizationpermissionmismatch":
            return (
                f"the SAS in {self._how} lacks a permission: it needs read, create, write, "
                "delete and list"
            )
        if code == "authorizationpermissionmismatch":
            return (
                f"{self._how} may not do this: give it the role Storage Blob Data Contributor on "
                f"container {self.container}"
            )
        if code in ("authorizationfailure", "publicaccessnotpermitted") and not self._sas:
            return (
                f"{self._how} was refused ({status}): wrong key, or the account's firewall does "
                "not let this network in"
            )
        if self._how == "azure-identity":
            return (
                "azure-identity found no one who may: run `az login`, or set AZURE_CLIENT_ID, "
                "AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or give the machine an identity"
            )
        return (
            f"{self._how} was refused ({status}): a wrong key, or one that was rotated or revoked"
        )


_CONFLICTS = {
    "blobalreadyexists",
    "conditionnotmet",
    "targetconditionnotmet",
    "sourceconditionnotmet",
    "blobmodifiedwhilereading",
}


class _Parts:
    """What a download writes into: keeps the SDK's own bytes instead of copying them."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        return len(data)

    def whole(self) -> bytes:
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def _page(pages: Any) -> list[Any]:
    return list(next(pages, ()))


def _block_id(mark: str, number: int) -> str:
    return base64.b64encode(f"{mark}-{number:06}".encode()).decode()


def _part(connection: str, name: str) -> str:
    match = re.search(rf"(?:^|;)\s*{name}=([^;]*)", connection, re.IGNORECASE)
    return match[1].strip() if match else ""


def _account_of(connection: str) -> str:
    if re.search(r"(^|;)\s*UseDevelopmentStorage=true", connection, re.IGNORECASE):
        return "devstoreaccount1"
    named = _part(connection, "AccountName")
    host = urllib.parse.urlsplit(_part(connection, "BlobEndpoint")).hostname or ""
    return named or host.split(".", 1)[0]


def _expired(sas: str) -> str:
    """When the token ended, if it did: its own "se" field says so."""
    until = urllib.parse.parse_qs(sas.lstrip("?")).get("se", [""])[0]
    try:
        moment = datetime.datetime.fromisoformat(until.replace("Z", "+00:00"))
    except ValueError:
        return ""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return until if moment < datetime.datetime.now(datetime.UTC) else ""
