"""The one module that uses granian's private parts says which version it was written for."""

from __future__ import annotations

from importlib.metadata import version

import granian._granian
import pytest

from tandem.errors import SettingError
from tandem.serving.worker import granian as own


def test_the_locked_version_has_all_that_is_used():
    assert own.private_parts() is granian._granian
    assert version("granian").rpartition(".")[0] in own.KNOWN


def test_another_version_is_refused_by_name_with_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own, "version", lambda name: "3.0.1")
    with pytest.raises(SettingError, match=r"granian 3\.0\.1 is installed: expected 2\.8 .*lock"):
        own.private_parts()


def test_what_a_version_lacks_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(granian._granian, "SocketHolder")
    with pytest.raises(SettingError, match="which lacks SocketHolder"):
        own.private_parts()
