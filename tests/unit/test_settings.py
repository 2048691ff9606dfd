"""Settings: defaults need nothing, and a wrong value is one line that names it."""

from __future__ import annotations

import pytest

from tandem.errors import SettingError
from tandem.settings import load, redact


def test_defaults_need_no_account_and_no_server() -> None:
    settings = load({})
    assert settings.store == "file:.tandem/store"
    assert settings.registry == "oci:.tandem/images"
    assert settings.target == "process:"
    assert settings.source == "."
    assert settings.release_on == "nightly"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TANDEM_STORE", "ftp://somewhere"),
        ("TANDEM_STORE", "az://account"),
        ("TANDEM_REGISTRY", "registry.example"),
        ("TANDEM_REGISTRY", "https://registry.example/app"),
        ("TANDEM_TARGET", "heroku:"),
        ("TANDEM_TARGET", "process:http"),
        ("TANDEM_TARGET", "process:70000"),
        ("TANDEM_TARGET", "k8s://context"),
        ("TANDEM_RELEASE_ON", "weekly"),
        ("TANDEM_NIGHTLY", "at two"),
        ("TANDEM_TIMEZONE", "Mars/Olympus"),
        ("TANDEM_TIMEZONE", "../../etc/passwd"),
        ("TANDEM_BUILDER", "kaniko"),
        ("TANDEM_KEEP", "0"),
        ("TANDEM_KEEP", "all"),
    ],
)
def test_a_wrong_value_is_one_line_with_the_name_and_what_is_right(name: str, value: str) -> None:
    with pytest.raises(SettingError) as caught:
        load({name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}={value} ")
    assert "takes" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("TANDEM_STORE", "az://account/models/team", "store"),
        ("TANDEM_STORE", "s3://bucket/some/prefix", "store"),
        ("TANDEM_REGISTRY", "127.0.0.1:5000/team/digits", "registry"),
        ("TANDEM_REGISTRY", "acme.azurecr.io/digits", "registry"),
        ("TANDEM_TARGET", "k8s://one-machine/digits", "target"),
        ("TANDEM_TARGET", "process:8081", "target"),
        ("TANDEM_NIGHTLY", "30 3 * * MON-FRI", "nightly"),
        ("TANDEM_TIMEZONE", "Europe/Berlin", "timezone"),
    ],
)
def test_right_values_are_taken_as_they_are(name: str, value: str, field: str) -> None:
    assert getattr(load({name: value}), field) == value


def test_an_empty_variable_counts_as_not_set() -> None:
    assert load({"TANDEM_TARGET": " "}).target == "process:"


def test_a_password_in_a_url_is_never_repeated() -> None:
    assert redact("https://me:hunter2@host/repo") == "https://host/repo"
    with pytest.raises(SettingError) as caught:
        load({"TANDEM_STORE": "https://me:hunter2@host/x"})
    assert "hunter2" not in str(caught.value)
