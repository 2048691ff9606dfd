"""The app image made without an engine: wheels by hash, byte code, nothing of this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import msgspec
import pytest
from support.oci_samples import locked, small_image, wheel

from tandem.errors import BuildError
from tandem.oci import open_registry
from tandem.oci.app_image import layers
from tandem.oci.app_image.assemble import build_app_image, image_settings
from tandem.oci.app_image.base import base_runtime
from tandem.oci.app_image.compile_python import interpreter
from tandem.oci.app_image.layers import application_layer, dependencies_layer
from tandem.oci.app_image.pip_settings import pip_settings, uv_configuration, uv_settings
from tandem.oci.app_image.python_runtime import host_python
from tandem.oci.app_image.wheels import install
from tandem.oci.push import push
from tandem.oci.unpack import unpack_layer


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder of wheels, the only place that installers may take any from."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


@pytest.fixture
def lock(shop, tmp_path):
    files = {
        "thing/__init__.py": "VALUES = {'a', 'b'}\ndef f(x):\n    return x in {'p', 'q', 'r'}\n",
        "thing/template.py": "{% not python %}\n",
        "thing/tests/test_thing.py": "",
        "thing-1.0.dist-info/entry_points.txt": "[console_scripts]\nthing = thing:f\n",
    }
    return locked(tmp_path / "lock", wheel(shop, "thing", "1.0", files))


def names(layer) -> list[str]:
    with layer.open() as file:
        return tarfile.open(fileobj=io.BytesIO(file.read())).getnames()


def test_dependency_layer_holds_the_wheels_and_their_byte_code_only(lock, tmp_path, monkeypatch):
    found = dependencies_layer(lock, cache=tmp_path / "cache")
    tag = sys.implementation.cache_tag
    assert sorted(names(found)) == [
        "app",
        "app/lib",
        "app/lib/thing",
        "app/lib/thing-1.0.dist-info",
        "app/lib/thing-1.0.dist-info/METADATA",
        "app/lib/thing-1.0.dist-info/RECORD",
        "app/lib/thing-1.0.dist-info/WHEEL",
        "app/lib/thing-1.0.dist-info/entry_points.txt",
        "app/lib/thing/__init__.py",
        "app/lib/thing/__pycache__",
        f"app/lib/thing/__pycache__/__init__.{tag}.pyc",
        "app/lib/thing/template.py",
        "app/lib/thing/tests",
        "app/lib/thing/tests/test_thing.py",
    ]
    assert [(one.name, one.version, one.license) for one in found.components] == [
        ("thing", "1.0", "MIT")
    ]


def test_layers_are_the_same_under_another_umask_zone_locale_and_hash_seed(lock, tmp_path):
    program = (
        "import os, sys; from pathlib import Path; os.umask(int(sys.argv[1], 8))\n"
        "from tandem.oci.app_image.layers import dependencies_layer, application_layer\n"
        "cache = Path(sys.argv[2]); app = cache / 'src'; (app / 'serving').mkdir(parents=True)\n"
        "for name in sys.argv[4:]: (app / 'serving' / name).write_text(f'X = {{\"{name}\", 1}}')\n"
        "print(dependencies_layer(Path(sys.argv[3]), cache=cache).layer.descriptor.digest)\n"
        "print(application_layer(app, ['serving'], into=cache).layer.descriptor.digest)\n"
    )
    said = set()
    for number, (mask, zone, locale, files) in enumerate(
        [
            ("022", "UTC", "C", ["a.py", "b.py"]),
            ("077", "Asia/Kathmandu", "C.UTF-8", ["b.py", "a.py"]),
        ]
    ):
        env = {**os.environ, "TZ": zone, "LC_ALL": locale, "PYTHONHASHSEED": str(number)}
        argv = [sys.executable, "-c", program, mask, str(tmp_path / mask), str(lock), *files]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
        said.add(done.stdout)
    assert len(said) == 1


def test_byte_code_is_used_without_looking_at_the_source(lock, tmp_path):
    registry = open_registry(f"oci:{tmp_path}/images")
    found = dependencies_layer(lock, cache=tmp_path / "cache", registry=registry)
    lib = unpack_layer(registry, found.layer, tmp_path / "into") / "app/lib"
    (lib / "thing/__init__.py").write_text("raise SystemExit('the source was compiled')")
    program = "import thing; print(thing.f('q'))"
    said = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(lib)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "True\n"


def test_second_time_nothing_is_installed(lock, tmp_path, monkeypatch):
    registry = open_registry(f"oci:{tmp_path}/images")
    first = dependencies_layer(lock, cache=tmp_path / "cache", registry=registry)
    monkeypatch.setattr(layers, "_make_dependencies", lambda *_: pytest.fail("made again"))
    second = dependencies_layer(lock, cache=tmp_path / "cache", registry=registry)
    assert (second.layer, second.components) == (first.layer, first.components)


def test_registry_that_lost_the_layer_gets_it_again(lock, tmp_path):
    registry = open_registry(f"oci:{tmp_path}/images")
    first = dependencies_layer(lock, cache=tmp_path / "cache", registry=registry)
    registry.path(first.layer.descriptor.digest).unlink()
    dependencies_layer(lock, cache=tmp_path / "cache", registry=registry)
    assert registry.head_blob(first.layer.descriptor.digest) == first.layer.descriptor.size


def test_changed_lock_is_another_layer(lock, shop, tmp_path):
    first = dependencies_layer(lock, cache=tmp_path / "cache")
    more = locked(tmp_path / "lock", wheel(shop, "thing", "2.0", {"thing/__init__.py": ""}))
    assert dependencies_layer(more, cache=tmp_path / "cache").layer != first.layer


def test_wheel_with_another_hash_is_refused_and_leaves_nothing(shop, tmp_path, monkeypatch):
    name, _ = wheel(shop, "thing", "1.0", {"thing.py": ""})
    lock = locked(tmp_path / "lock", (name, "0" * 64))
    with pytest.raises(BuildError, match=r"installing serving\.txt failed: .*[Hh]ash"):
        install(lock, tmp_path / "box" / "into")
    assert [one.name for one in (tmp_path / "box").iterdir()] == [".into.lock"]


def test_failed_install_shows_no_password(shop, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    lock = locked(tmp_path / "lock", ("absent==1.0", "0" * 64))
    with pytest.raises(BuildError) as caught:
        install(lock, tmp_path / "into")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_pip_are_handed_to_uv(tmp_path):
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "pip.conf").write_text(
        "[global]\nindex-url = https://a/simple\nextra-index-url =\n  https://b/simple\n"
        "  https://c/simple\n[install]\nfind-links = /one /two\n"
    )
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "PIP_INDEX_URL": "https://z/"}
    found = uv_settings(env)
    assert found["UV_DEFAULT_INDEX"] == "https://z/"
    assert found["UV_INDEX"] == "https://b/simple https://c/simple"
    assert found["UV_FIND_LINKS"] == "/one,/two"
    assert "UV_INDEX" not in uv_settings({**env, "UV_INDEX": "https://mine/"})


def test_uv_reads_the_persons_own_file_and_none_of_a_checkout(tmp_path):
    env = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path), "HOME": "/none"}
    assert uv_configuration(env) == ["--no-config"]
    own = tmp_path / "uv" / "uv.toml"
    own.parent.mkdir()
    own.write_text("")
    assert uv_configuration(env) == ["--config-file", str(own)]
    named = uv_configuration({**env, "UV_CONFIG_FILE": "/named.toml"})
    assert named == ["--config-file", "/named.toml"]


def test_index_of_a_uv_file_is_used(shop, tmp_path, monkeypatch):
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    configuration = tmp_path / "uv.toml"
    configuration.write_text(f'no-index = true\nfind-links = ["{shop}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(configuration))
    lock = locked(tmp_path / "lock", wheel(shop, "thing", "1.0", {"thing.py": ""}))
    assert (install(lock, tmp_path / "into") / "thing.py").exists()


def test_settings_of_pip_that_cannot_be_read_are_said(tmp_path):
    (tmp_path / "pip.conf").write_text("no section\n")
    with pytest.raises(BuildError, match="pip's settings"):
        pip_settings({"PIP_CONFIG_FILE": str(tmp_path / "pip.conf"), "HOME": str(tmp_path)})


@pytest.fixture
def commit(tmp_path):
    folder = tmp_path / "commit"
    (folder / "serving" / "__pycache__").mkdir(parents=True)
    (folder / "serving" / "__main__.py").write_text("print('serving')\n")
    (folder / "serving" / "page.html").write_text("<p>")
    (folder / "serving" / "__pycache__" / "old.pyc").write_bytes(b"x")
    (folder / "tandem").mkdir()
    (folder / "tandem" / "errors.py").write_text("")
    (folder / "secret.txt").write_text("not asked for")
    return folder


def test_application_layer_holds_the_paths_asked_for_and_byte_code(commit, tmp_path):
    built = application_layer(commit, ["tandem/errors.py", "serving"], into=tmp_path / "out")
    tag = sys.implementation.cache_tag
    assert sorted(names(built)) == [
        "app",
        "app/serving",
        "app/serving/__main__.py",
        "app/serving/__pycache__",
        f"app/serving/__pycache__/__main__.{tag}.pyc",
        "app/serving/page.html",
        "app/tandem",
        "app/tandem/__pycache__",
        f"app/tandem/__pycache__/errors.{tag}.pyc",
        "app/tandem/errors.py",
    ]
    assert not list((commit / "tandem").glob("__pycache__")), "the checkout stays as it was"


@pytest.mark.parametrize("path", ["gone", "../outside", "/etc", ""])
def test_path_that_the_commit_does_not_have_is_refused(commit, tmp_path, path):
    with pytest.raises(BuildError, match="paths"):
        application_layer(commit, [path], into=tmp_path / "out")


def test_app_image_has_command_user_and_labels(commit, lock, tmp_path):
    registry = open_registry(f"oci:{tmp_path}/images")
    built = build_app_image(
        commit,
        ["serving"],
        lock,
        cache=tmp_path / "cache",
        registry=registry,
        app="digits",
        commit="c" * 40,
        created="2026-11-21T00:00:00Z",
    )
    settings = built.image.settings
    assert settings["config"]["Cmd"] == ["python3", "-m", "serving"]
    assert settings["config"]["User"] == "10001:10001"
    assert settings["config"]["WorkingDir"] == "/app"
    assert built.image.environment["PYTHONPATH"] == "/app/lib:/app"
    assert built.image.labels["org.opencontainers.image.revision"] == "c" * 40
    assert settings["created"] == "2026-11-21T00:00:00Z"
    assert [one.kind for one in built.image.layers] == ["dependencies", "application"]
    push(registry, built.image, built.sources, tag="app")


def base_image(**settings):
    image = small_image()[0].with_config(env=settings.pop("env", {}))
    config = image.settings | settings
    return msgspec.structs.replace(image, config=msgspec.json.encode(config))


def test_base_of_this_python_is_taken():
    version = host_python().version
    base = base_image(
        env={"PYTHON_VERSION": f"{version}.99"},
        architecture=host_python().platform.architecture,
    )
    assert base_runtime(base).version == version


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"os": "windows"}, "is for windows"),
        ({"architecture": "s390x"}, "is for linux/s390x"),
        ({}, "does not state which Python"),
        ({"env": {"PYTHON_VERSION": "unknown"}}, "does not state which Python"),
    ],
)
def test_base_of_the_wrong_kind_is_refused_with_the_reason(settings, why):
    settings = {"architecture": host_python().platform.architecture} | settings
    with pytest.raises(BuildError, match=why):
        base_runtime(base_image(**settings))


def test_base_with_a_python_that_is_not_here_is_refused_with_the_reason():
    with pytest.raises(BuildError, match=r"has Python 3\.3, this machine has"):
        interpreter("3.3")


def test_killed_install_leaves_nothing_that_looks_whole(lock, tmp_path):
    box = tmp_path / "box"
    box.mkdir()
    with tempfile.TemporaryDirectory(dir=box, prefix=".partial-") as half:
        (Path(half) / "lib").mkdir()
        assert (install(lock, box / "into") / "thing/__init__.py").exists()


def test_dockerfile_says_the_same_as_the_assembler():
    root = Path(__file__).parents[3]
    recipe = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["tandem"]["app"]
    dockerfile = (root / "Dockerfile").read_text()
    copied = " ".join(line for line in dockerfile.splitlines() if line.startswith("COPY")).split()
    seen = (root / ".dockerignore").read_text().splitlines()
    for path in [*recipe["paths"], recipe["lock"]]:
        assert path in copied or path == recipe["lock"]
        assert f"!{path}" in seen
    settings = image_settings(app="digits", commit="")
    for name, value in settings["env"].items():
        assert f"{name}={'${APP}' if name == 'TANDEM_APP_NAME' else value}" in dockerfile
    assert f"USER {settings['User']}" in dockerfile
    assert f"WORKDIR {settings['WorkingDir']}" in dockerfile
    assert f"CMD {json.dumps(recipe['command'])}" in dockerfile
    assert recipe["command"] == settings["Cmd"]
