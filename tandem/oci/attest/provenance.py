"""Provenance: an in-toto statement with a SLSA predicate about an image."""

from __future__ import annotations

from typing import Any

import msgspec

from tandem.oci.image import Image

PROVENANCE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What an image was made from and how; empty fields are left out."""

    app: str
    commit: str
    tree: str = ""
    source: str = ""
    model: str = ""
    model_version: int = 0
    model_digest: str = ""
    lock_digest: str = ""
    base: str = ""
    """Reference of the base image."""
    base_digest: str = ""
    builder: str = "assemble"
    tests: str = ""
    """The test report in a few words."""
    tests_digest: str = ""
    run_id: str = ""


def provenance(name: str, digest: str, origin: Origin) -> bytes:
    """An in-toto statement with a SLSA provenance predicate about an image."""

    def part(uri: str, **digests: str) -> dict[str, Any]:
        return {"uri": uri, "digest": {key: value for key, value in digests.items() if value}}

    materials = [part(f"git+{origin.source}" if origin.source else "git", gitCommit=origin.commit)]
    if origin.tree:
        materials[0]["digest"]["gitTree"] = origin.tree
    if origin.model_digest:
        uri = f"tandem:model/{origin.model}@{origin.model_version}"
        materials.append(part(uri, sha256=origin.model_digest.removeprefix("sha256:")))
    if origin.lock_digest:
        materials.append(part("tandem:lock", sha256=origin.lock_digest.removeprefix("sha256:")))
    if origin.base_digest:
        uri = f"docker://{origin.base}"
        materials.append(part(uri, sha256=origin.base_digest.removeprefix("sha256:")))
    tests: dict[str, Any] = {"name": "tests", "annotations": {"summary": origin.tests}}
    if origin.tests_digest:
        tests["digest"] = {"sha256": origin.tests_digest.removeprefix("sha256:")}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": "tandem:image/v1",
                "externalParameters": {
                    "app": origin.app,
                    "commit": origin.commit,
                    "model": {"name": origin.model, "version": origin.model_version},
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": f"tandem:{origin.builder}"},
                "metadata": {"invocationId": origin.run_id},
                "byproducts": [tests] if origin.tests else [],
            },
        },
    }
    return msgspec.json.encode(statement, order="sorted")


def differences(statement: Any, image: Image, digest: str) -> list[str]:
    """Where a provenance differs from the image and its labels, in words."""
    wrong = []
    about = [subject["digest"].get("sha256") for subject in statement["subject"]]
    if digest.removeprefix("sha256:") not in about:
        wrong.append("the provenance is about another digest")
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    commits = [material["digest"].get("gitCommit") for material in materials]
    if image.labels.get("org.opencontainers.image.revision") not in commits:
        wrong.append("the provenance names another commit than the image's label")
    model = image.labels.get("tandem.model.digest", "").removeprefix("sha256:")
    models = [
        material["digest"].get("sha256") for material in materials if "model" in material["uri"]
    ]
    if model and model not in models:
        wrong.append("the provenance names another model than the image's label")
    return wrong
