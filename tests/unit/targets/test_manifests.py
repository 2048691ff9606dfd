"""The Kubernetes objects: valid for current versions, restricted, and compared with what is
found."""

from __future__ import annotations

import warnings
from typing import Any

import msgspec
import pytest
import yaml

from tandem.errors import SettingError
from tandem.targets.kubernetes import manifests
from tandem.targets.kubernetes.differences import differences
from tandem.targets.kubernetes.manifests import ReleasedImage
from tandem.targets.kubernetes.settings import KubernetesSettings, load_settings

RELEASE = ReleasedImage(
    reference="registry.example/app@sha256:aa",
    digest="sha256:aa",
    number=41,
    annotations={"tandem.dev/app-commit": "c" * 40},
)
FULL = KubernetesSettings(
    replicas=2, max_replicas=5, host="digits.westeurope.cloudapp.azure.com", env={"MORE": "1"}
)


def made(
    settings: KubernetesSettings = FULL, release: ReleasedImage = RELEASE, **more: Any
) -> dict[str, Any]:
    found = manifests.objects("digits", "prod", settings, release, **more)
    return {one["kind"]: one for one in found}


@pytest.mark.parametrize("version", ["1.33.0", "1.35.0", "1.37.0"])
def test_every_object_is_valid_for_current_versions(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kubernetes_validate

    for one in made(pull_secret="s").values():
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_noticed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kubernetes_validate

    wrong = made()["Deployment"]
    wrong["spec"]["replica"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37.0", strict=True)


def test_the_pod_meets_the_restricted_standard() -> None:
    pod = made()["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_image_is_named_by_digest_and_the_service_is_told_which_it_is() -> None:
    deployment = made()["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    env = {pair["name"]: pair["value"] for pair in container["env"]}
    assert container["image"] == RELEASE.reference
    assert env["TANDEM_IMAGE_DIGEST"] == "sha256:aa"
    assert env["TANDEM_RELEASE"] == "41"
    assert env["MORE"] == "1"
    for metadata in (deployment["metadata"], deployment["spec"]["template"]["metadata"]):
        assert metadata["annotations"]["tandem.dev/release"] == "41"
        assert metadata["annotations"]["tandem.dev/app-commit"] == "c" * 40
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "tandem"


def test_no_pod_goes_before_another_is_there_and_it_has_time_to_drain() -> None:
    spec = made(KubernetesSettings(drain_seconds=7))["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pod = spec["template"]["spec"]
    drain = {pair["name"]: pair["value"] for pair in pod["containers"][0]["env"]}
    assert drain["TANDEM_DRAIN_SECONDS"] == "7"
    assert pod["terminationGracePeriodSeconds"] > 7 + 20


def container_of(**of_release: Any) -> dict[str, Any]:
    release = msgspec.structs.replace(RELEASE, **of_release)
    (container,) = made(release=release)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def test_a_service_that_speaks_the_contract_is_probed_at_a_path_for_each_question() -> None:
    container = container_of()
    paths = {name: probe["httpGet"]["path"] for name, probe in container.items() if "Probe" in name}
    assert paths == {
        "startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz",
    }  # fmt: skip
    assert "lifecycle" not in container and "command" not in container
    # The same below a prefix that no route of the app's own is in the way of.
    container = container_of(health="/_tandem/ready")
    assert container["readinessProbe"]["httpGet"]["path"] == "/_tandem/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/_tandem/live"


def test_any_other_service_is_probed_at_its_one_health_path_or_at_its_port() -> None:
    of_path, of_port = container_of(health="/health"), container_of(health="")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert of_path[name]["httpGet"] == {"path": "/health", "port": "http"}
        assert of_port[name]["tcpSocket"] == {"port": "http"}
        assert "httpGet" not in of_port[name]


def test_port_and_command_are_those_of_the_release() -> None:
    release = msgspec.structs.replace(RELEASE, port=5000, command=("node", "server.js"))
    found = made(release=release)
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    env = {pair["name"]: pair["value"] for pair in container["env"]}
    assert container["command"] == ["node", "server.js"]
    assert (container["ports"][0]["containerPort"], env["PORT"]) == (5000, "5000")
    assert found["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == 5000
    assert found["Service"]["spec"]["ports"][0]["targetPort"] == "http"


def test_a_service_that_does_not_drain_is_stopped_once_nothing_is_sent_to_it() -> None:
    container = container_of(names_its_image=False)
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "15"]


@pytest.mark.parametrize("version", ["1.33.0", "1.37.0"])
def test_the_objects_of_any_other_service_are_valid_too(version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import kubernetes_validate

    for health in ("/health", ""):
        release = msgspec.structs.replace(
            RELEASE, health=health, port=80, command=("a",), names_its_image=False
        )
        for one in made(release=release).values():
            kubernetes_validate.validate(one, version, strict=True)


def test_azure_is_asked_for_the_label_of_its_own_names_only() -> None:
    own = made()["Service"]["metadata"]["annotations"]
    assert own == {"service.beta.kubernetes.io/azure-dns-label-name": "digits"}
    other = made(KubernetesSettings(host="digits.example.org"))["Service"]["metadata"]
    assert "annotations" not in other


def test_an_autoscaler_is_made_when_asked_for_and_its_replicas_are_kept() -> None:
    assert "HorizontalPodAutoscaler" not in made(KubernetesSettings())
    found = made(replicas=4)
    assert found["HorizontalPodAutoscaler"]["spec"]["maxReplicas"] == 5
    assert found["Deployment"]["spec"]["replicas"] == 4


def test_a_single_replica_has_no_disruption_budget_that_would_forbid_every_drain() -> None:
    assert "PodDisruptionBudget" in made(KubernetesSettings(replicas=2))
    assert "PodDisruptionBudget" not in made(KubernetesSettings(replicas=1))


def test_the_yaml_says_the_same_and_has_no_anchors() -> None:
    found = list(made().values())
    text = manifests.render(found)
    assert list(yaml.safe_load_all(text)) == found
    assert "&id" not in text


def test_settings_are_read_from_the_environment() -> None:
    settings = load_settings(
        {
            "TANDEM_REPLICAS": "3",
            "TANDEM_MAX_REPLICAS": "6",
            "TANDEM_HOST": "digits.example.org",
            "TANDEM_MEMORY": "512Mi",
            "TANDEM_SERVICE_ENV": "A=1,B=x=y",
        }
    )
    assert settings.replicas == 3 and settings.max_replicas == 6
    assert settings.env == {"A": "1", "B": "x=y"}
    assert load_settings({}) == KubernetesSettings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TANDEM_REPLICAS", "0"),
        ("TANDEM_REPLICAS", "two"),
        ("TANDEM_MAX_REPLICAS", "1"),
        ("TANDEM_HOST", "http://x"),
        ("TANDEM_MEMORY", "lots"),
        ("TANDEM_PULL_SECRET", "A secret"),
        ("TANDEM_SERVICE_ENV", "NAME"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str) -> None:
    with pytest.raises(SettingError, match=variable):
        load_settings({variable: value})


def test_what_the_server_adds_is_no_difference() -> None:
    wanted = {"spec": {"replicas": 2, "env": [{"name": "A", "value": "1"}]}}
    found = {
        "spec": {"replicas": 2, "paused": False, "env": [{"name": "A", "value": "1", "x": 0}]},
        "status": {},
    }
    assert differences(wanted, found) == []


def test_what_somebody_changed_added_or_removed_is_named() -> None:
    wanted = {"spec": {"replicas": 2, "env": [{"name": "A", "value": "1"}, {"name": "B"}]}}
    found = {"spec": {"replicas": 5, "env": [{"name": "A", "value": "2"}, {"name": "C"}]}}
    assert differences(wanted, found) == [
        "spec.replicas: 2 is 5",
        'spec.env[A].value: "1" is "2"',
        "spec.env[B] is missing",
        "spec.env[C] was added",
    ]
