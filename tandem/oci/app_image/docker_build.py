"""The app image by a Docker engine: built by BuildKit, pushed, read back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tandem.errors import BuildError, SettingError
from tandem.oci import Registry
from tandem.oci.app_image.assemble import COMMAND, AppImage, image_settings
from tandem.oci.app_image.base import find_base
from tandem.oci.app_image.lock_file import locked_components
from tandem.oci.app_image.pip_settings import pip_settings
from tandem.oci.pull import pull
from tandem.oci.remote.client import open_reference

STEP = re.compile(r"#\d+ \[(?:[\w-]+ )?(\d+/\d+)\] (.*)")
PIP = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
"""The pip settings that mean the same inside of a build: addresses, no paths of this machine."""


def engine_problem() -> str | None:
    """Why there is no Docker engine to build with, or None."""
    if shutil.which("docker") is None:
        return "there is no program `docker` on the PATH"
    completed = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True
    )
    if completed.returncode == 0:
        return None
    lines = completed.stderr.strip().splitlines()
    return lines[-1] if lines else "the Docker engine does not answer"


def choose_builder(setting: str, *, base: str, registry: Registry) -> str:
    """`docker` or `assemble`, for TANDEM_BUILDER (`auto`, `docker`, `assemble`).

    Docker is taken by itself where there is a base image, an engine, and a registry that the engine
    can push to. Raises `SettingError` when Docker is asked for and one of these is missing.
    """
    if setting == "assemble":
        return "assemble"
    missing = None
    if not base:
        missing = "TANDEM_BASE_IMAGE is not set"
    elif not registry.host:
        missing = f"the engine cannot push to {registry.url}: set TANDEM_REGISTRY=HOST/REPOSITORY"
    else:
        missing = engine_problem()
    if missing is None:
        return "docker"
    if setting == "docker":
        raise SettingError(f"TANDEM_BUILDER=docker: {missing}")
    return "assemble"


def build_with_docker(
    folder: Path,
    lock: Path,
    *,
    registry: Registry,
    base: str,
    tag: str,
    app: str,
    commit: str,
    command: Sequence[str] = COMMAND,
    created: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> AppImage:
    """Build a commit's Dockerfile on the base image, and push it under `tag`.

    `lock` is inside of `folder`. The result is the image as the registry has it, with the settings
    that the assembler gives, too; all of its layers are in the registry. Raises `BuildError`.
    """
    if not registry.host:
        raise BuildError(f"a Docker engine cannot push to {registry.url}")
    if not (folder / "Dockerfile").exists():
        raise BuildError("this commit has no Dockerfile: add one, or set TANDEM_BUILDER=assemble")
    below = find_base(base)
    reference = f"{registry.url}:{tag}"
    # BuildKit copies modes as they are, and the image's user is nobody that a umask knows.
    _readable(folder)
    settings = image_settings(
        app=app,
        commit=commit,
        command=command,
        python=below.runtime.version,
        created=created,
    )
    arguments = {
        "BASE_IMAGE": below.pinned,
        "LOCK": str(lock.relative_to(folder)),
        "APP": app,
        "COMMIT": commit,
    }
    argv = ["docker", "build", "--progress=plain", "--tag", reference, "--force-rm"]
    for name, value in arguments.items():
        argv += ["--build-arg", f"{name}={value}"]
    with _docker_config(registry, base) as config:
        if pip := _pip_for_builds(config.parent):
            argv += ["--secret", f"id=pip,src={pip}"]
        env = {**os.environ, "DOCKER_BUILDKIT": "1", "DOCKER_CONFIG": str(config)}
        _run([*argv, str(folder)], env, progress, f"docker build of {app}")
        _run(["docker", "push", "--quiet", reference], env, progress, f"docker push of {app}")
        _forget_older(registry.url, reference, env)
    built = pull(registry, tag)
    from_base = {layer.diff_id for layer in below.image.layers}
    layers = tuple(
        msgspec.structs.replace(layer, kind="base" if layer.diff_id in from_base else "application")
        for layer in built.layers
    )
    image = msgspec.structs.replace(
        built, layers=layers, annotations={"org.opencontainers.image.title": app}
    ).with_config(**settings)  # type: ignore[arg-type]
    return AppImage(
        image=image,
        sources={},
        components=locked_components(lock, below.runtime),
        base=below.digest,
        builder="docker",
    )


def _readable(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        wanted = 0o755 if stat.S_ISDIR(mode) or mode & 0o100 else 0o644
        if mode & 0o777 != wanted:
            path.chmod(wanted)


def _run(
    argv: Sequence[str],
    env: Mapping[str, str],
    progress: Callable[[str], None] | None,
    what: str,
) -> None:
    last: list[str] = []
    try:
        with subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None  # noqa: S101
            for line in process.stdout:
                last = [*last[-30:], line.strip()]
                if progress and (step := STEP.match(line)):
                    progress(f"docker {step[1]}: {' '.join(step[2].split())[:80]}")
    except OSError as problem:
        raise BuildError(f"{what}: {problem.strerror}") from None
    if process.returncode:
        raise BuildError(f"{what} failed: {_reason(last)}")


def _forget_older(repository: str, reference: str, env: Mapping[str, str]) -> None:
    """Untag earlier app images in the engine; its build cache keeps their layers."""
    argv = ["docker", "images", "--format", "{{.Repository}}:{{.Tag}}"]
    argv += ["--filter", f"reference={repository}:app-*"]
    listed = subprocess.run(argv, env=env, capture_output=True, text=True)
    older = [name for name in listed.stdout.split() if name != reference]
    if older:
        # One that a container still runs from stays, and so does this build's.
        subprocess.run(["docker", "image", "rm", *older], env=env, capture_output=True)


def _reason(lines: Sequence[str]) -> str:
    """What stopped a build: the failed step's own words, which come before BuildKit's."""
    words = [re.sub(r"^#\d+ (?:\d+\.\d+ )?", "", line) for line in lines if line]
    errors = [line for line in words if re.search(r"error|denied|not found|unauthor", line, re.I)]
    return "; ".join(dict.fromkeys(errors[-3:] or words[-2:]))[:600] or "docker gave no reason"


@contextlib.contextmanager
def _docker_config(registry: Registry, base: str) -> Iterator[Path]:
    """A DOCKER_CONFIG folder: the person's own, with this registry's login.

    The login is in a file that only this user can read, and gone afterwards; never in arguments.
    """
    own = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    settings: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError):
        settings = json.loads((own / "config.json").read_text("utf-8"))
    hosts = {
        registry.host: registry.login_for_others(),
        (other := open_reference(base)[0]).host: other.login_for_others(),
    }
    auths = dict(settings.get("auths") or {})  # type: ignore[call-overload]
    for host, credentials in hosts.items():
        if credentials and credentials.refresh_token:
            auths[host] = {"identitytoken": credentials.refresh_token}
        elif credentials:
            auths[host] = {"auth": credentials.basic.removeprefix("Basic ")}
    for name in ("credsStore", "credHelpers"):
        settings.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="tandem-docker-") as temporary:
        config = Path(temporary) / "config"
        config.mkdir(mode=0o700)
        if own.is_dir():
            for item in own.iterdir():
                if item.name != "config.json":
                    (config / item.name).symlink_to(item.resolve())
        _write_private(config / "config.json", json.dumps({**settings, "auths": auths}))
        yield config


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


def _pip_for_builds(folder: Path) -> Path | None:
    """The person's pip settings as a file for the build, without local paths."""
    settings = {
        name: value
        for name, value in pip_settings(os.environ).items()
        if name in PIP and all(urlsplit(url).scheme != "file" for url in value.split())
    }
    if not settings:
        return None
    path = folder / "pip.conf"
    lines = [f"{name} = {' '.join(value.split())}\n" for name, value in settings.items()]
    _write_private(path, "[global]\n" + "".join(lines))
    return path
