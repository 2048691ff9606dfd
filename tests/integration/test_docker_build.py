"""An app image starts the same way whether an engine built it or not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from support.oci_samples import small_image
from support.services import require

from tandem.errors import BuildError, SettingError
from tandem.oci import open_registry
from tandem.oci.app_image.base import find_base
from tandem.oci.app_image.docker_build import choose_builder
from tandem.oci.app_image.make import make_app_image
from tandem.oci.app_image.python_runtime import host_python
from tandem.oci.components import Component
from tandem.oci.layer import model_layer
from tandem.oci.merge import merge
from tandem.oci.pull import pull
from tandem.oci.push import push
from tandem.oci.unpack import unpack_layer

# A service of the standard library: what is tested here is the image, not the example app.
SERVING = """\
import http.server, os, pathlib, json, sys
import tandem

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({
            "app": os.environ["TANDEM_APP_NAME"],
            "commit": os.environ["TANDEM_APP_COMMIT"],
            "model": (pathlib.Path(os.environ["TANDEM_MODEL"]) / "model.txt").read_text(),
            "uid": os.getuid(),
            "folder": os.getcwd(),
            "python": "%d.%d" % sys.version_info[:2],
            "byte_code": tandem.__cached__ is not None and os.path.exists(tandem.__cached__),
        }).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

http.server.HTTPServer(("0.0.0.0", 8080), Answer).serve_forever()
"""
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def registry(monkeypatch):
    for service in ("registry", "docker", "base-image"):
        require(service)
    url = f"{os.environ['REGISTRY']}/test/{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("TANDEM_REGISTRY", url)
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    yield open_registry(url)
    found = subprocess.run(
        ["docker", "images", "--quiet", "--filter", f"reference={url}"],
        capture_output=True,
        text=True,
    )
    for image in found.stdout.split():
        subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True)


@pytest.fixture
def commit(tmp_path):
    """A checkout of a small app with the repository's own Dockerfile; nothing to install."""
    folder = tmp_path / "commit"
    for name in ("serving", "tandem/serving", "tandem/model/package", "requirements"):
        (folder / name).mkdir(parents=True)
    (folder / "serving" / "__init__.py").touch()
    (folder / "serving" / "__main__.py").write_text(SERVING)
    for name in ("", "serving/", "model/", "model/package/"):
        (folder / "tandem" / f"{name}__init__.py").touch()
    for name in ("contract", "errors"):
        (folder / "tandem" / f"{name}.py").touch()
    (folder / "requirements" / "serving.txt").touch()
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / "secret.txt").write_text("not for the image")
    # As a umask of 077 would leave it.
    (folder / "serving").chmod(0o700)
    return folder


def made(registry, commit: Path, tmp_path: Path, builder: str):
    app = make_app_image(
        commit,
        [
            "serving",
            "tandem/__init__.py",
            "tandem/contract.py",
            "tandem/errors.py",
            "tandem/serving",
            "tandem/model/__init__.py",
            "tandem/model/package",
        ],
        commit / "requirements/serving.txt",
        cache=tmp_path / "cache",
        registry=registry,
        tag=f"app-{builder}",
        app="digits",
        commit="c" * 40,
        builder=builder,
        base=os.environ["BASE_IMAGE"],
        created="2026-11-21T00:00:00Z",
    )
    done = push(registry, app.image, app.sources, tag=f"app-{builder}", mount_from=app.mount_from)
    return app, done


def with_model(registry, image, tmp_path: Path):
    package = tmp_path / "package"
    package.mkdir(exist_ok=True)
    (package / "model.txt").write_text("the model")
    layer = model_layer(package, into=tmp_path / "layers")
    whole = image.append(layer.layer).with_config(labels={"tandem.model.version": "1"})
    sources = {layer.layer.descriptor.digest: layer.open}
    return whole, push(registry, whole, sources, tag="whole", based_on=image)


@contextlib.contextmanager
def running(reference: str):
    """A container as a release would start it: read-only, without a capability."""
    name = f"tandem-test-{uuid.uuid4().hex[:8]}"
    argv = ["docker", "run", "--detach", "--name", name, "--read-only", "--cap-drop=ALL"]
    subprocess.run([*argv, reference], check=True, capture_output=True)
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True)


def answer(container: str) -> dict:
    said = subprocess.run(["docker", "inspect", container], capture_output=True, text=True)
    address = json.loads(said.stdout)[0]["NetworkSettings"]["IPAddress"]
    for _ in range(100):
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return json.load(urllib.request.urlopen(f"http://{address}:8080/", timeout=2))
        time.sleep(0.1)
    logs = subprocess.run(["docker", "logs", container], capture_output=True, text=True)
    pytest.fail(f"no answer: {logs.stdout}{logs.stderr}")


@pytest.mark.parametrize("builder", ["docker", "assemble"])
def test_image_starts_as_nobody_on_a_read_only_root_and_answers(
    registry, commit, tmp_path, builder
):
    app, _ = made(registry, commit, tmp_path, builder)
    assert app.builder == builder
    assert app.base.startswith("sha256:")
    image, _ = with_model(registry, app.image, tmp_path)
    with running(registry.reference(image.digest)) as container:
        assert answer(container) == {
            "app": "digits",
            "commit": "c" * 40,
            "model": "the model",
            "uid": 10001,
            "folder": "/app",
            "python": find_base(os.environ["BASE_IMAGE"]).runtime.version,
            "byte_code": True,
        }


def test_both_builders_give_the_same_settings_and_files(registry, commit, tmp_path):
    images = [made(registry, commit, tmp_path, one)[0].image for one in ("docker", "assemble")]
    settings = [image.settings["config"] for image in images]
    for one in settings:
        one["Env"] = sorted(one["Env"])
    assert settings[0] == settings[1]
    listing = (
        "import os; print(sorted(os.path.join(a, f) for a, _, c in os.walk('/app') for f in c))"
    )
    files = set()
    for image in images:
        argv = ["docker", "run", "--rm", registry.reference(image.digest), "python3", "-c", listing]
        files.add(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert len(files) == 1
    assert "secret" not in files.pop()


def test_base_layers_are_taken_as_they_are_without_a_byte(registry, commit, tmp_path):
    base = find_base(os.environ["BASE_IMAGE"])
    app, done = made(registry, commit, tmp_path, "assemble")
    below = {layer.descriptor.digest for layer in base.image.layers}
    assert {one.how for one in done if one.digest in below} == {"mounted"}
    assert [one.descriptor.digest for one in app.image.layers][: len(below)] == [
        layer.descriptor.digest for layer in base.image.layers
    ]


def test_base_layers_are_copied_into_a_folder(registry, commit, tmp_path, monkeypatch):
    monkeypatch.setenv("TANDEM_REGISTRY", os.environ["REGISTRY"] + "/x")
    folder = open_registry(f"oci:{tmp_path}/images")
    app, done = made(folder, commit, tmp_path, "assemble")
    assert done[0].how == "uploaded"
    assert pull(folder, "app-assemble") == app.image


def test_model_is_one_more_layer_and_nothing_else_moves(registry, commit, tmp_path):
    app, _ = made(registry, commit, tmp_path, "docker")
    image, done = with_model(registry, app.image, tmp_path)
    assert image.layers[:-1] == app.image.layers
    moved = {one.digest for one in done if one.how != "present"}
    assert moved == {image.layers[-1].descriptor.digest, image.config_descriptor.digest}


def own_layers(image):
    return [layer for layer in image.layers if layer.kind != "base"]


def test_the_engines_layers_can_be_unpacked_without_an_engine(registry, commit, tmp_path):
    app, _ = made(registry, commit, tmp_path, "docker")
    folders = [
        # Refused, if one of them deleted anything.
        unpack_layer(registry, layer, tmp_path / f"layer-{number}")
        for number, layer in enumerate(own_layers(app.image))
    ]
    root = tmp_path / "root"
    root.mkdir()
    merge(folders, root)
    assert (root / "app/serving/__main__.py").read_text() == SERVING


def test_what_a_dockerfile_deletes_is_gone_without_an_engine_too(registry, commit, tmp_path):
    with (commit / "Dockerfile").open("a") as file:
        file.write(
            "USER 0\n"
            "RUN mkdir -p /a/b /a/c && touch /a/b/1 /a/b/2 /a/c/3 /a/d\n"
            "RUN rm -r /a/b/1 /a/d /a/c && mkdir /a/c && touch /a/c/4\n"
            "USER 10001:10001\n"
        )
    app, _ = made(registry, commit, tmp_path, "docker")
    folders = [
        unpack_layer(registry, layer, tmp_path / f"layer-{number}", deletions=True)
        for number, layer in enumerate(own_layers(app.image))
    ]
    root = tmp_path / "root"
    root.mkdir()
    merge(folders, root)
    found = {str(path.relative_to(root / "a")) for path in (root / "a").rglob("*")}
    assert found == {"b", "b/2", "c", "c/4"}


def test_the_engines_packages_are_listed_with_their_licences(registry, commit, tmp_path):
    info = "/app/lib/some_thing-1.2.dist-info"
    said = r"Name: some-thing\nVersion: 1.2\nLicense-Expression: MIT\n"
    with (commit / "Dockerfile").open("a") as file:
        file.write(f"USER 0\nRUN mkdir -p {info} && printf '{said}' > {info}/METADATA\n")
    app, _ = made(registry, commit, tmp_path, "docker")
    assert app.components == (Component(name="some-thing", version="1.2", license="MIT"),)


def test_second_build_of_the_same_commit_is_the_same_image(registry, commit, tmp_path):
    first, _ = made(registry, commit, tmp_path, "assemble")
    second, done = made(registry, commit, tmp_path, "assemble")
    assert first.image == second.image
    assert {one.how for one in done} == {"present"}


def test_engine_keeps_the_name_of_the_newest_app_image_only(registry, commit, tmp_path):
    base = os.environ["BASE_IMAGE"]
    subprocess.run(["docker", "pull", "--quiet", base], check=True, capture_output=True)
    subprocess.run(["docker", "tag", base, f"{registry.url}:app-older"], check=True)
    made(registry, commit, tmp_path, "docker")
    argv = ["docker", "images", "--format", "{{.Tag}}", "--filter", f"reference={registry.url}"]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["app-docker"]


def test_dockerfile_that_fails_is_said_with_the_step_that_failed(registry, commit, tmp_path):
    with (commit / "Dockerfile").open("a") as file:
        file.write("RUN echo the-reason >&2 && exit 3\n")
    with pytest.raises(BuildError, match="docker build of digits failed: ") as caught:
        made(registry, commit, tmp_path, "docker")
    assert "exit code: 3" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_commit_without_a_dockerfile_is_said(registry, commit, tmp_path):
    (commit / "Dockerfile").unlink()
    with pytest.raises(BuildError, match="no Dockerfile"):
        made(registry, commit, tmp_path, "docker")


def test_login_is_in_no_argument_and_in_no_layer(registry, commit, tmp_path, monkeypatch):
    calls: list[str] = []
    real = subprocess.Popen

    def spy(argv, *args, **kwargs):
        calls.append(" ".join(map(str, argv)))
        return real(argv, *args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", spy)
    app, _ = made(registry, commit, tmp_path, "docker")
    assert any(call.startswith("docker build") for call in calls)
    assert not any(os.environ["REGISTRY_PASSWORD"] in call for call in calls)
    assert os.environ["REGISTRY_PASSWORD"] not in app.image.config.decode()


def test_docker_is_refused_where_it_cannot_be_used(tmp_path):
    folder = open_registry(f"oci:{tmp_path}/images")
    with pytest.raises(SettingError, match="TANDEM_BASE_IMAGE is not set"):
        choose_builder("docker", base="", registry=folder)
    with pytest.raises(SettingError, match="cannot push to oci:"):
        choose_builder("docker", base="python:3.11-slim", registry=folder)
    assert choose_builder("auto", base="", registry=folder) == "assemble"
    assert choose_builder("assemble", base="python:3.11-slim", registry=folder) == "assemble"


def test_base_that_is_not_there_is_said(registry):
    missing = f"{os.environ['REGISTRY']}/test/none:1"
    with pytest.raises(BuildError, match=f"TANDEM_BASE_IMAGE={missing}: there is no such image"):
        find_base(missing)


def test_base_for_another_machine_is_refused_with_the_reason(registry):
    other = "arm64" if host_python().platform.architecture == "amd64" else "amd64"
    image, sources = small_image(uuid.uuid4().bytes)
    wrong = image.settings | {"architecture": other}
    image = type(image)(config=json.dumps(wrong).encode(), layers=image.layers)
    push(registry, image, sources, tag="wrong")
    with pytest.raises(BuildError, match=f"is for linux/{other}"):
        find_base(f"{registry.url}:wrong")
