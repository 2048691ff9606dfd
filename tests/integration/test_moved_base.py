"""A base image whose tag was moved, as after a security update, is noticed and built on."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest
from support.services import require
from support.tiny import Tiny

from tandem.oci import open_registry
from tandem.oci.pull import pull
from tandem.oci.push import push
from tandem.release import build, plan
from tandem.release.build import build_app
from tandem.release.judging import judge_missing
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.release.prove import prove


@pytest.mark.xdist_group("docker")
def test_a_moved_base_tag_is_noticed_and_built_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for service in ("registry", "base-image", "docker", "skopeo"):
        require(service)
    host, name = os.environ["REGISTRY"], f"moved-{secrets.token_hex(4)}"
    login = f"{os.environ['REGISTRY_USERNAME']}:{os.environ['REGISTRY_PASSWORD']}"
    monkeypatch.setenv("TANDEM_REGISTRY", f"{host}/{name}/tiny")
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    base = f"{host}/{name}/base"
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false",
            f"--src-creds={login}", f"--dest-creds={login}"]  # fmt: skip
    source = f"docker://{os.environ['BASE_IMAGE']}"
    subprocess.run([*copy, source, f"docker://{base}:3.11"], check=True, capture_output=True)
    tiny = Tiny(
        tmp_path / "tiny",
        TANDEM_REGISTRY=os.environ["TANDEM_REGISTRY"],
        TANDEM_BASE_IMAGE=f"{base}:3.11",
        TANDEM_BUILDER="assemble",
    )
    try:
        tiny.commit("one")
        tiny.publish()
        before = build_app(tiny.project)
        judge_missing(tiny.project)
        prove(tiny.project, pack(tiny.project, choose_pair(tiny.project)))
        assert not plan.build(tiny.project).key
        registry = open_registry(base)
        mended = pull(registry, "3.11").with_config(labels={"mended": "yes"})
        push(registry, mended, tag="3.11")
        assert not plan.build(tiny.project).key, "the tag is asked every few minutes"
        build._bases.clear()
        found = plan.build(tiny.project)
        assert found.key
        assert f"was made on an older {base}:3.11" in found.reason
        after = build_app(tiny.project)
        assert after.image != before.image
        packed = pack(tiny.project, choose_pair(tiny.project))
        assert prove(tiny.project, packed).number == 2
        assert not plan.build(tiny.project).key
    finally:
        tiny.close()
