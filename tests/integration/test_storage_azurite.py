"""What Azurite refuses, in one line each: no container, a wrong key, an old or narrow SAS."""

from __future__ import annotations

import base64
import datetime
import os
from typing import Any

import pytest
from support.stores import CONTAINER, azurite_store

from tandem.errors import StorageError
from tandem.storage import Store, open_store


@pytest.fixture
def account() -> dict[str, str]:
    """The parts of the connection string; the test container is there."""
    azurite_store()
    parts = os.environ["AZURE_STORAGE_CONNECTION_STRING"].strip(";").split(";")
    return dict(part.split("=", 1) for part in parts)


def with_sas(
    monkeypatch: pytest.MonkeyPatch, account: dict[str, str], hours: float, **allowed: bool
) -> tuple[Store, str]:
    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    token = generate_container_sas(
        account["AccountName"],
        CONTAINER,
        account_key=account["AccountKey"],
        permission=ContainerSasPermissions(**allowed),
        expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours),
    )
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", account["BlobEndpoint"])
    return open_store(f"az://{account['AccountName']}/{CONTAINER}/sas"), token


def refused(store: Store, *secrets: str) -> str:
    with pytest.raises(StorageError) as raised:
        store.put("key", b"x")
    text = str(raised.value)
    assert "\n" not in text
    for secret in secrets:
        assert secret not in text
    return text


def test_a_container_that_is_not_there_is_named(account: dict[str, str]) -> None:
    store = open_store(f"az://{account['AccountName']}/no-such-container")
    assert "no container no-such-container" in refused(store)
    for look in (lambda: store.head("x"), lambda: list(store.list())):
        with pytest.raises(StorageError, match="az storage container create"):
            look()


def test_a_wrong_key_is_told(monkeypatch: pytest.MonkeyPatch, account: dict[str, str]) -> None:
    wrong = base64.b64encode(b"wrong" * 12).decode()
    given = os.environ["AZURE_STORAGE_CONNECTION_STRING"].replace(account["AccountKey"], wrong)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", given)
    store = open_store(f"az://{account['AccountName']}/{CONTAINER}")
    assert "wrong key" in refused(store, wrong)


def test_an_account_key_alone_is_enough(
    monkeypatch: pytest.MonkeyPatch, account: dict[str, str]
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING")
    monkeypatch.setenv("AZURE_STORAGE_KEY", account["AccountKey"])
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", account["BlobEndpoint"])
    store = open_store(f"az://{account['AccountName']}/{CONTAINER}/key")
    store.put("key", b"x")
    assert store.read("key")[0] == b"x"
    store.delete("key")


ALL: dict[str, Any] = {"read": True, "write": True, "create": True, "delete": True, "list": True}


def test_a_sas_is_enough(monkeypatch: pytest.MonkeyPatch, account: dict[str, str]) -> None:
    store, _ = with_sas(monkeypatch, account, 1, **ALL)
    store.put("key", b"x", if_absent=True)
    assert [stat.key for stat in store.list()] == ["key"]
    store.delete("key")


def test_an_expired_sas_says_since_when(
    monkeypatch: pytest.MonkeyPatch, account: dict[str, str]
) -> None:
    store, token = with_sas(monkeypatch, account, -1, **ALL)
    text = refused(store, token, token.split("sig=")[1])
    assert "the SAS in AZURE_STORAGE_SAS_TOKEN expired at 20" in text


def test_a_sas_that_may_only_read_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, account: dict[str, str]
) -> None:
    store, token = with_sas(monkeypatch, account, 1, read=True)
    assert store.head("nothing") is None
    assert "lacks a permission" in refused(store, token)
