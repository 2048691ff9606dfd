"""The whole way on real services: Blob store, private registry, Docker engine, Kubernetes."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from support.services import require
from support.tiny import Tiny

from tandem.dagster.definitions import build_defs
from tandem.dagster.release_command import release_needed


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    for service in ("azurite", "registry", "docker", "base-image", "kubernetes"):
        require(service)
    from azure.storage.blob import BlobServiceClient

    name = f"way-{secrets.token_hex(4)}"
    blobs = BlobServiceClient.from_connection_string(os.environ["AZURE_STORAGE_CONNECTION_STRING"])
    blobs.create_container(name)
    subprocess.run(["kubectl", "create", "namespace", name], check=True, capture_output=True)
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    monkeypatch.setenv("TANDEM_REPLICAS", "1")
    made = Tiny(
        tmp_path / "tiny",
        TANDEM_STORE=f"az://{blobs.account_name}/{name}",
        TANDEM_REGISTRY=f"{os.environ['REGISTRY']}/{name}/tiny",
        TANDEM_BASE_IMAGE=os.environ["BASE_IMAGE"],
        TANDEM_BUILDER="assemble",
        TANDEM_TARGET=f"k8s://one-machine/{name}",
    )
    try:
        yield made
    finally:
        subprocess.run(
            ["kubectl", "delete", "namespace", name, "--wait=false"], capture_output=True
        )
        blobs.delete_container(name)
        blobs.close()


@pytest.mark.xdist_group("kubernetes")
def test_a_commit_and_a_model_go_live_on_kubernetes_from_blob_and_registry(tiny: Tiny) -> None:
    sha = tiny.commit("one")
    tiny.publish(0.98)
    defs = build_defs(apps=[tiny.app], resource_overrides={"tandem": tiny.tandem})
    with dg.DagsterInstance.ephemeral() as instance:
        outcome = release_needed(defs, tiny.app, tiny.project, instance)
        assert outcome.good, outcome
        assert said(tiny)["app"]["commit"] == sha
        tiny.publish(0.99)
        outcome = release_needed(defs, tiny.app, tiny.project, instance)
        assert outcome.good, outcome
        assert [one.job for one in outcome.jobs] == ["tiny_image", "tiny_release"]
        assert said(tiny)["model"]["version"] == 2
        again = release_needed(defs, tiny.app, tiny.project, instance)
    assert (again.jobs, again.reason.partition(":")[0]) == ([], "nothing changed since release 2")
    record = tiny.project.ledger.releases.latest()
    assert (
        record.reference
        == f"{os.environ['REGISTRY']}/{tiny.project.registry.repository}@{record.image}"
    )
    pods = subprocess.run(
        ["kubectl", "-n", tiny.project.target.namespace, "get", "pods", "-o", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    images = {
        container["image"]
        for pod in json.loads(pods.stdout)["items"]
        if not pod["metadata"].get("deletionTimestamp")
        for container in pod["spec"]["containers"]
    }
    assert images == {record.reference}, "kubectl says so too"


def said(tiny: Tiny) -> dict:
    url = tiny.project.target.current().url
    with urllib.request.urlopen(f"{url}/version", timeout=10) as answer:
        return json.load(answer)
