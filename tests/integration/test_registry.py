"""A push to a real registry ends whole or with a clear error, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.faulty_proxy import Proxy, faulty_registry, later
from support.oci_samples import blob, pem, read, small_image, tar_layer
from support.services import require

from tandem.errors import RegistryError
from tandem.oci import MANIFEST, Registry, open_registry
from tandem.oci.attest.materials import attach_materials
from tandem.oci.attest.provenance import Origin
from tandem.oci.attest.referrers import read_artifact, referrers
from tandem.oci.attest.signature import signing_key
from tandem.oci.attest.statements import attest
from tandem.oci.attest.trust import signed_bill
from tandem.oci.attest.verify import verify
from tandem.oci.blobs import bytes_source
from tandem.oci.components import Component
from tandem.oci.credentials import Credentials
from tandem.oci.image import Image
from tandem.oci.layer import BuiltLayer
from tandem.oci.pack import pack
from tandem.oci.prune import prune
from tandem.oci.pull import pull
from tandem.oci.push import push
from tandem.oci.remote.client import RemoteRegistry

PIECE = 1 << 20


@pytest.fixture(autouse=True)
def real_registry():
    require("registry")


@pytest.fixture
def proxy():
    with faulty_registry() as one:
        yield one


@pytest.fixture
def name() -> str:
    return f"test/{uuid.uuid4().hex[:12]}"


def login() -> Credentials:
    return Credentials(os.environ["REGISTRY_USERNAME"], os.environ["REGISTRY_PASSWORD"])


def through(proxy: Proxy, name: str, **settings) -> RemoteRegistry:
    settings = {"credentials": login(), "patience": 10, "piece": PIECE, "whole": PIECE} | settings
    return RemoteRegistry(f"{proxy.host}/{name}", **settings)


def directly(name: str) -> RemoteRegistry:
    return RemoteRegistry(f"{os.environ['REGISTRY']}/{name}", credentials=login())


def some_bytes(count: int) -> bytes:
    return random.Random(uuid.uuid4().hex).randbytes(count)


def stored(name: str, digest: str) -> bytes:
    return read(directly(name), digest)


# --- what goes over the wire ----------------------------------------------------------------------


def test_pushed_image_is_pulled_by_tag_and_by_digest(proxy, name):
    registry: Registry = through(proxy, name)
    image, sources = small_image(some_bytes(100))
    done = push(registry, image, sources, tag="one")
    assert [one.how for one in done] == ["uploaded", "uploaded"]
    assert pull(registry, "one") == pull(registry, image.digest) == image
    assert registry.tags() == ["one"]


def test_nothing_changed_costs_questions_and_no_byte(proxy, name):
    registry = through(proxy, name)
    image, sources = small_image(some_bytes(100))
    push(registry, image, sources, tag="one")
    proxy.seen.clear()
    assert {one.how for one in push(registry, image, sources, tag="one")} == {"present"}
    assert sorted(one.method for one in proxy.seen) == ["GET", "HEAD", "HEAD"]
    assert proxy.blob_bytes() == 0


def test_only_changed_layers_and_config_are_sent(proxy, name):
    registry = through(proxy, name)
    first, sources = small_image(some_bytes(100))
    push(registry, first, sources, tag="one")
    extra, data = small_image(some_bytes(5000))
    second = first.append(extra.layers[0])
    proxy.seen.clear()
    done = push(registry, second, data, tag="two", based_on=first)
    assert [one.how for one in done] == ["present", "uploaded", "uploaded"]
    wanted = second.layers[1].descriptor.size + len(second.config)
    assert proxy.blob_bytes() == sum(one.sent for one in done) == wanted
    assert not proxy.sent("HEAD", first.layers[0].descriptor.digest)


def test_blob_of_another_repository_is_mounted_without_a_byte(proxy, name):
    descriptor, source = blob(some_bytes(2000))
    through(proxy, name).put_blob(descriptor, source)
    proxy.seen.clear()
    other = through(proxy, f"{name}-other")
    assert other.put_blob(descriptor, source, mount_from=name).how == "mounted"
    assert proxy.blob_bytes() == 0
    assert stored(f"{name}-other", descriptor.digest)


def test_refused_mount_becomes_an_upload(proxy, name):
    descriptor, source = blob(some_bytes(2000))
    through(proxy, name).put_blob(descriptor, source)
    proxy.fault("POST", "/blobs/uploads/", status=403)
    other = through(proxy, f"{name}-other")
    assert other.put_blob(descriptor, source, mount_from=name).how == "uploaded"
    assert stored(f"{name}-other", descriptor.digest)


def test_mount_of_what_is_not_there_becomes_an_upload_and_leaves_no_open_one(proxy, name):
    descriptor, source = blob(some_bytes(2000))
    assert through(proxy, name).put_blob(descriptor, source, mount_from="no/such").how == "uploaded"
    assert [one.status for one in proxy.sent("DELETE")] == [204]


def test_large_blob_goes_up_in_pieces(proxy, name):
    data = some_bytes(3 * PIECE + 7)
    descriptor, source = blob(data)
    moved: list[int] = []
    done = through(proxy, name).put_blob(descriptor, source, progress=moved.append)
    assert [one.body for one in proxy.sent("PATCH")] == [PIECE, PIECE, PIECE, 7]
    assert sum(moved) == done.sent == len(data)
    assert stored(name, descriptor.digest) == data


def test_least_size_of_a_piece_is_kept_to(proxy, name):
    data = some_bytes(3 * PIECE)
    descriptor, source = blob(data)
    proxy.fault("POST", "/blobs/uploads/", add={"OCI-Chunk-Min-Length": str(2 * PIECE)})
    through(proxy, name).put_blob(descriptor, source)
    assert [one.body for one in proxy.sent("PATCH")] == [2 * PIECE, PIECE]
    assert stored(name, descriptor.digest) == data


def test_registry_that_does_not_say_how_much_it_took_took_it_all(proxy, name):
    data = some_bytes(3 * PIECE)
    descriptor, source = blob(data)
    proxy.fault("PATCH", "/blobs/uploads/", change={"Range": ""}, times=3)
    through(proxy, name).put_blob(descriptor, source)
    assert len(proxy.sent("PATCH")) == 3
    assert stored(name, descriptor.digest) == data


ORIGIN = Origin(
    app="digits",
    commit="c" * 40,
    model="digits",
    model_version=1,
    model_digest="sha256:" + "d" * 64,
)


def on_top(registry, app: Image, content: bytes, **options) -> tuple[Image, list[str]]:
    layer, data = tar_layer(("model/model.onnx", content))
    image, transfers = pack(
        registry,
        app.digest,
        lambda: BuiltLayer(layer=layer, open=bytes_source(data)),
        lambda below: below.with_config(labels={"tandem.model.version": "1"}),
        ORIGIN,
        tag="whole",
        **options,
    )
    return image, [transfer.how for transfer in transfers]


def test_a_new_layer_on_top_costs_as_few_requests_as_there_can_be(proxy, name, tmp_path):
    registry = through(proxy, name)
    app, sources = small_image(some_bytes(100))
    push(registry, app, sources)
    attach_materials(registry, app, [Component(name="flask", version="3.1")], app="digits")
    on_top(registry, app, some_bytes(100), cache=tmp_path)
    proxy.seen.clear()
    image, how = on_top(registry, app, some_bytes(100), cache=tmp_path, expect_new=True)
    assert how == ["present", "uploaded", "uploaded"]
    # The layer is asked for, and the list of statements twice; four uploads; the manifests of the
    # two statements, of their list, and of the image.
    methods = Counter(request.method for request in proxy.seen)
    assert methods == {"GET": 2, "HEAD": 1, "POST": 4, "PUT": 8}
    statements = referrers(registry, image.digest)
    contents = [read_artifact(registry, one, image.digest)[1] for one in statements]
    model = image.layers[-1].descriptor.size
    assert proxy.blob_bytes() == model + len(image.config) + sum(map(len, contents))
    assert pull(directly(name), "whole") == image


def test_an_image_appears_after_its_statements(proxy, name):
    registry = through(proxy, name)
    app, sources = small_image(some_bytes(100))
    push(registry, app, sources)
    proxy.fault("PUT", "/manifests/sha256-", status=403, times=10)
    with pytest.raises(RegistryError, match="403"):
        on_top(registry, app, some_bytes(100), expect_new=True)
    assert directly(name).get_manifest("whole") is None


def test_two_machines_that_pack_the_same_pair_at_once_keep_both_statements(name):
    app, sources = small_image(some_bytes(100))
    push(directly(name), app, sources)
    content = some_bytes(100)
    signers = [signing_key({"TANDEM_SIGNING_KEY": pem()[0]}) for _ in range(2)]
    with ThreadPoolExecutor(2) as machines:
        packed = [
            machines.submit(on_top, directly(name), app, content, signer=signer, expect_new=True)
            for signer in signers
        ]
        images = {each.result()[0].digest for each in packed}
    assert len(images) == 1
    digest = images.pop()
    for signer in signers:
        # One may have been overwritten in that very moment; then it is added now.
        on_top(directly(name), app, content, signer=signer)
    for signer in signers:
        assert signed_bill(directly(name), digest, signer.public_key) is not None


def test_an_upload_that_was_opened_for_nothing_is_closed(proxy, name):
    registry = through(proxy, name)
    app, sources = small_image(some_bytes(100))
    push(registry, app, sources)
    content = some_bytes(100)
    on_top(registry, app, content)
    proxy.seen.clear()
    assert on_top(registry, app, content, expect_new=True)[1] == ["present"] * 3
    assert not [one for one in proxy.sent("PATCH") if one.body > 0]
    assert [one.status for one in proxy.sent("DELETE")] == [204] * 2


@pytest.mark.parametrize("expect_new", [True, False])
@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "GET"])
def test_a_layer_on_top_survives_passing_faults(proxy, name, method, expect_new):
    registry = through(proxy, name)
    app, sources = small_image(some_bytes(100))
    push(registry, app, sources)
    fault = proxy.fault(method, "", status=503, times=2)
    image, _ = on_top(registry, app, some_bytes(100), expect_new=expect_new)
    assert fault.hits == 2
    assert pull(directly(name), "whole") == image


def test_a_registry_that_takes_no_upload_is_said_and_no_image_is_there(proxy, name):
    registry = through(proxy, name)
    app, sources = small_image(some_bytes(100))
    push(registry, app, sources)
    proxy.fault("POST", "/blobs/", status=403, times=10)
    with pytest.raises(RegistryError, match="403"):
        on_top(registry, app, some_bytes(100), expect_new=True)
    assert directly(name).get_manifest("whole") is None


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_passing_refusal_is_tried_again(proxy, name, method, status):
    image, sources = small_image(some_bytes(100))
    fault = proxy.fault(method, "/blobs/", status=status, times=2)
    push(through(proxy, name), image, sources, tag="one")
    assert fault.hits == 2
    assert pull(directly(name), "one") == image


def test_manifest_that_was_refused_for_a_moment_is_written(proxy, name):
    image, sources = small_image(some_bytes(100))
    proxy.fault("PUT", "/manifests/", status=503, times=2)
    push(through(proxy, name), image, sources, tag="one")
    assert pull(directly(name), "one") == image


def test_retry_after_is_waited_for(proxy, name):
    waited: list[float] = []
    proxy.fault("HEAD", "/blobs/", status=429, headers={"Retry-After": "7"})
    descriptor, source = blob(some_bytes(100))
    through(proxy, name, sleep=waited.append).put_blob(descriptor, source)
    assert len(waited) == 1
    assert 7 <= waited[0] <= 8


def test_retry_after_of_an_hour_is_an_error_that_says_so(proxy, name):
    proxy.fault("HEAD", "/blobs/", status=429, headers={"Retry-After": "3600"})
    descriptor, source = blob(some_bytes(100))
    with pytest.raises(RegistryError, match="come back in 3600 s"):
        through(proxy, name).put_blob(descriptor, source)


def test_pauses_grow_and_differ(proxy, name):
    waited: list[float] = []
    proxy.fault("HEAD", "/blobs/", status=500, times=6)
    through(proxy, name, sleep=waited.append).head_blob(blob(b"x")[0].digest)
    assert len(waited) == 6
    assert waited[0] <= 0.1
    assert waited[5] >= 1.6
    assert len(set(waited)) == 6


@pytest.mark.parametrize("at", [0, 100_000, 400_000])
def test_reset_in_the_middle_of_a_put_ends_whole(proxy, name, at):
    data = some_bytes(500_000)
    descriptor, source = blob(data)
    fault = proxy.fault("PUT", "/blobs/uploads/", cut_after=at)
    assert through(proxy, name).put_blob(descriptor, source).how == "uploaded"
    assert fault.hits == 1
    assert stored(name, descriptor.digest) == data


def test_piece_that_never_arrived_is_sent_again_and_the_others_are_not(proxy, name):
    data = some_bytes(4 * PIECE)
    descriptor, source = blob(data)
    proxy.fault("PATCH", "/blobs/uploads/", status=503, after=2)
    through(proxy, name).put_blob(descriptor, source)
    assert proxy.blob_bytes() == len(data), "the refused piece was not passed on, the rest once"
    assert len(proxy.sent("POST")) == 1
    assert stored(name, descriptor.digest) == data


@pytest.mark.parametrize("at", [0, 300_000])
def test_reset_in_the_middle_of_a_piece_ends_whole(proxy, name, at):
    data = some_bytes(3 * PIECE)
    descriptor, source = blob(data)
    moved: list[int] = []
    proxy.fault("PATCH", "/blobs/uploads/", cut_after=at, after=1)
    through(proxy, name).put_blob(descriptor, source, progress=moved.append)
    assert stored(name, descriptor.digest) == data
    assert sum(moved) == len(data), "progress never counts a byte twice"


def test_upload_that_the_registry_forgot_starts_anew(proxy, name):
    data = some_bytes(3 * PIECE)
    descriptor, source = blob(data)
    proxy.fault("PATCH", "/blobs/uploads/", status=404, after=1)
    through(proxy, name).put_blob(descriptor, source)
    assert len(proxy.sent("POST")) == 2
    assert stored(name, descriptor.digest) == data


@pytest.mark.parametrize("size", [1000, 2 * PIECE])
def test_answer_that_was_lost_does_not_upload_twice(proxy, name, size):
    descriptor, source = blob(some_bytes(size))
    proxy.fault("PUT", "/blobs/uploads/", lose_answer=True)
    through(proxy, name).put_blob(descriptor, source)
    assert proxy.blob_bytes() == size
    assert stored(name, descriptor.digest)


def test_wrong_digest_for_a_blob_is_an_error(proxy, name):
    descriptor, source = blob(some_bytes(100))
    wrong = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    proxy.fault("PUT", "/blobs/uploads/", change=wrong)
    with pytest.raises(RegistryError, match="reports that it stored sha256:000"):
        through(proxy, name).put_blob(descriptor, source)


def test_wrong_digest_for_a_manifest_is_an_error(proxy, name):
    image, sources = small_image(some_bytes(100))
    wrong = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    proxy.fault("PUT", "/manifests/", change=wrong)
    with pytest.raises(RegistryError, match="do not use it"):
        push(through(proxy, name), image, sources, tag="one")
    assert push(through(proxy, name), image, sources, tag="one"), "a second run mends it"


def test_blob_whose_bytes_are_not_its_digests_is_refused(proxy, name):
    descriptor, _ = blob(b"what was packed")
    _, source = blob(b"what is there!!")
    with pytest.raises(RegistryError, match="does not take"):
        through(proxy, name).put_blob(descriptor, source)
    assert directly(name).head_blob(descriptor.digest) is None


def test_source_that_became_shorter_is_refused(proxy, name):
    descriptor, _ = blob(b"what was packed")
    _, source = blob(b"less")
    with pytest.raises(RegistryError, match="changed since it was packed"):
        through(proxy, name).put_blob(descriptor, source)


def test_download_that_breaks_goes_on_where_it_stopped(proxy, name):
    data = some_bytes(3_000_000)
    descriptor, source = blob(data)
    directly(name).put_blob(descriptor, source)
    proxy.fault("GET", "/blobs/sha256", cut_answer=2_000_000)
    assert read(through(proxy, name), descriptor.digest) == data
    assert [one.status for one in proxy.sent("GET", "/blobs/sha256")] == [401, 200, 206]


def test_registry_away_for_a_while_is_waited_for(proxy, name):
    image, sources = small_image(some_bytes(100))
    proxy.stop()
    back = later(10, proxy.start)
    push(through(proxy, name), image, sources, tag="one")
    back.join()
    assert pull(directly(name), "one") == image


def test_registry_away_for_long_is_one_clear_line(proxy, name):
    proxy.stop()
    image, sources = small_image(some_bytes(100))
    with pytest.raises(RegistryError, match=r"cannot be reached; given up after \d+ tries"):
        push(through(proxy, name, patience=0.3), image, sources, tag="one")


def test_push_that_was_given_up_has_no_manifest_and_a_second_run_finishes_it(proxy, name):
    image, sources = small_image(some_bytes(100))
    proxy.fault("PUT", "/blobs/uploads/", status=500, times=100)
    with pytest.raises(RegistryError, match="answers 500 FAULT"):
        push(through(proxy, name, patience=0.2), image, sources, tag="one")
    assert directly(name).get_manifest("one") is None
    proxy.faults.clear()
    push(through(proxy, name), image, sources, tag="one")
    assert pull(directly(name), "one") == image


def test_two_pushers_of_one_tag_leave_one_whole_image_there_and_both_by_digest(proxy, name):
    images = [small_image(some_bytes(200_000)) for _ in range(2)]
    threads = [
        threading.Thread(target=push, args=(through(proxy, name), *one), kwargs={"tag": "latest"})
        for one in images
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pull(directly(name), "latest") in [image for image, _ in images]
    for image, _ in images:
        assert pull(directly(name), image.digest) == image
        assert stored(name, image.layers[0].descriptor.digest)


def test_two_pushers_of_one_blob_both_succeed(proxy, name):
    data = some_bytes(3 * PIECE)
    descriptor, source = blob(data)
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(through(proxy, name).put_blob(descriptor, source))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert stored(name, descriptor.digest) == data


# --- logins ---------------------------------------------------------------------------------------


def test_wrong_password_is_one_clear_line_without_the_password(proxy, name):
    registry = through(proxy, name, credentials=Credentials("someone", "not-the-password"))
    with pytest.raises(RegistryError, match="refuses the login of someone") as caught:
        registry.head_blob(blob(b"x")[0].digest)
    assert "not-the-password" not in str(caught.value)


def test_missing_login_says_what_to_set(proxy, name, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("TANDEM_REGISTRY_USERNAME", raising=False)
    with pytest.raises(RegistryError, match="set TANDEM_REGISTRY_USERNAME and"):
        RemoteRegistry(f"{proxy.host}/{name}").tags()


def test_login_comes_from_the_environment_for_that_host_only(proxy, name, monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    monkeypatch.setenv("TANDEM_REGISTRY", f"{proxy.host}/{name}")
    assert RemoteRegistry(f"{proxy.host}/{name}").tags() == []
    monkeypatch.setenv("TANDEM_REGISTRY", "elsewhere.example/app")
    with pytest.raises(RegistryError, match="requires a login"):
        RemoteRegistry(f"{proxy.host}/{name}").tags()


def test_login_comes_from_dockers_config(proxy, name, monkeypatch, tmp_path):
    config = {"auths": {proxy.host: {"auth": login().basic.removeprefix("Basic ")}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert RemoteRegistry(f"{proxy.host}/{name}").tags() == []


def test_login_comes_from_dockers_credential_helper(proxy, name, monkeypatch, tmp_path):
    helper = tmp_path / "docker-credential-test"
    said = {"Username": login().username, "Secret": login().password, "ServerURL": proxy.host}
    helper.write_text(f"#!/bin/sh\ncat >/dev/null\nprintf '%s' '{json.dumps(said)}'\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {proxy.host: "test"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert RemoteRegistry(f"{proxy.host}/{name}").tags() == []


def test_bearer_token_is_fetched_once_for_reading_and_once_for_writing(name):
    with faulty_registry(tokens=True) as proxy:
        image, sources = small_image(some_bytes(100))
        registry = through(proxy, name)
        push(registry, image, sources, tag="one")
        assert pull(registry, "one") == image
        assert sorted(proxy.scopes) == [f"repository:{name}:pull", f"repository:{name}:pull,push"]


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_token_that_runs_out_in_the_middle_of_a_push_is_renewed(name, uses):
    with faulty_registry(tokens=True) as proxy:
        proxy.token_uses = uses
        data = some_bytes(3 * PIECE)
        descriptor, source = blob(data)
        through(proxy, name).put_blob(descriptor, source)
        assert stored(name, descriptor.digest) == data
        assert len(proxy.sent("GET", "/token")) > 2


def test_token_is_renewed_before_it_runs_out(name):
    with faulty_registry(tokens=True) as proxy:
        now = [0.0]
        registry = through(proxy, name, clock=lambda: now[0])
        registry.tags()
        now[0] = 299.0
        registry.tags()
        assert len(proxy.sent("GET", "/token")) == 2
        assert [one.status for one in proxy.sent("GET", "/tags")] == [401, 404, 404]


def test_token_server_that_is_busy_is_asked_again(name):
    with faulty_registry(tokens=True) as proxy:
        proxy.fault("GET", "/token", status=503, times=2)
        assert through(proxy, name).tags() == []


def test_token_server_that_refuses_is_one_clear_line(name):
    with faulty_registry(tokens=True) as proxy:
        registry = through(proxy, name, credentials=Credentials("someone", "secret-word"))
        with pytest.raises(RegistryError, match="refuses the login of someone") as caught:
            registry.tags()
        assert "secret-word" not in str(caught.value)


def test_mount_asks_for_a_token_for_both_repositories(name):
    descriptor, source = blob(some_bytes(100))
    directly(name).put_blob(descriptor, source)
    with faulty_registry(tokens=True) as proxy:
        other = through(proxy, f"{name}-other")
        assert other.put_blob(descriptor, source, mount_from=name).how == "mounted"
        assert f"repository:{name}:pull" in proxy.scopes


# --- tags -----------------------------------------------------------------------------------------


def test_deleted_tag_is_gone_and_its_image_and_other_tags_stay(name):
    registry = directly(name)
    image, sources = small_image(some_bytes(100))
    push(registry, image, sources, tag="one")
    push(registry, image, sources, tag="two")
    registry.delete("one")
    assert registry.tags() == ["two"]
    assert pull(registry, "two") == image
    registry.delete("one")


def test_deleted_manifest_is_gone(name):
    registry = directly(name)
    image, sources = small_image(some_bytes(100))
    push(registry, image, sources, tag="one")
    registry.delete(image.digest)
    assert registry.get_manifest(image.digest) is None
    registry.delete(image.digest)


def test_registry_that_does_not_delete_is_said(proxy, name):
    proxy.fault("DELETE", "/manifests/", status=405)
    with pytest.raises(RegistryError, match="does not allow deleting"):
        through(proxy, name).delete("sha256:" + "0" * 64)


def test_repository_that_is_not_there_has_no_tags(name):
    assert directly(f"{name}/none").tags() == []


def test_skopeo_reads_what_was_pushed(name):
    require("skopeo")
    image, sources = small_image(some_bytes(100))
    registry = directly(name)
    push(registry, image, sources, tag="one")
    where = f"docker://{os.environ['REGISTRY']}/{name}:one"
    argv = ["skopeo", "inspect", "--tls-verify=false", where]
    argv += ["--creds", f"{login().username}:{login().password}"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["Digest"] == image.digest


def test_open_registry_gives_a_remote_one(name):
    found = open_registry(f"{os.environ['REGISTRY']}/{name}")
    assert isinstance(found, RemoteRegistry)
    assert "password" not in found.reference("sha256:" + "0" * 64)


# --- what is said about an image ------------------------------------------------------------------


def attested(registry):
    image, sources = small_image(some_bytes(100))
    image = image.with_config(
        labels={
            "tandem.app": "digits",
            "tandem.model.digest": "sha256:" + "d" * 64,
            "tandem.model.name": "digits",
            "tandem.model.version": "1",
            "org.opencontainers.image.revision": "c" * 40,
            "org.opencontainers.image.version": "1",
        },
        User="10001:10001",
        Cmd=["python3"],
    )
    push(registry, image, sources, tag="one")
    attest(registry, image, ORIGIN, components=[Component(name="flask", version="3.1")])
    return image


def test_attestations_are_found_by_the_tag_fallback(name):
    registry = directly(name)
    image = attested(registry)
    assert len(referrers(registry, image.digest)) == 2
    assert f"sha256-{image.digest[7:]}" in registry.tags()
    report = verify(registry, "one", deep=True)
    assert report.ok, report.missing


def test_pruned_image_is_gone_from_the_registry_with_its_attestations(name):
    registry = directly(name)
    first = attested(registry)
    registry.delete("one")
    registry.put_manifest(first.manifest, MANIFEST, tag="old")
    second = attested(registry)
    done = prune(registry, [second.digest, first.digest], app="digits", keep=[], number=1)
    assert [one.digest for one in done.removed] == [first.digest]
    assert set(registry.tags()) == {"one", f"sha256-{second.digest[7:]}"}
    assert verify(registry, "one").ok
