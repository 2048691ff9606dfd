"""Locked wheels: installed by hash for some Python, tidied to what they say themselves, listed."""

from __future__ import annotations

import configparser
import csv
import fcntl
import importlib.util
import io
import os
import platform as host
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tandem.errors import BuildError
from tandem.oci.image import Platform

MOST_WORDS = 600
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """The Python that an image has: what wheels are chosen for, and byte code is compiled for."""

    version: str
    """`3.11`: the part that wheels and byte code depend on."""
    platform: Platform
    libc: str
    """`glibc2.36`: a wheel for a newer one does not load."""

    @property
    def key(self) -> str:
        return f"cp{self.version}-{self.platform}-{self.libc}"


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution, for the bill of materials."""

    name: str
    version: str
    license: str = ""
    summary: str = ""


def host_runtime() -> Runtime:
    """The Python that runs this."""
    name, version = host.libc_ver()
    machine = host.machine().lower()
    return Runtime(
        version=f"{sys.version_info.major}.{sys.version_info.minor}",
        platform=Platform(sys.platform, ARCHITECTURES.get(machine, machine)),
        libc=f"{name or 'libc'}{version}",
    )


def install(
    lock: Path,
    into: Path,
    *,
    runtime: Runtime | None = None,
    python: str = sys.executable,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Install the wheels of a hash-locked requirements file into the new folder `into`.

    A folder that is there already is whole, and used as it is.

    With uv where it is installed beside this Python, else with pip. Both use the person's pip
    settings (index, proxy, certificates). Nothing is built and no code of a package runs: wheels
    only, each one's hash checked. Raises `BuildError` with the installer's own last words.
    """
    if into.is_dir():
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    with alone(into.parent / f".{into.name}.lock"):
        if into.is_dir():
            return into
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=into.parent) as temporary:
            target = Path(temporary) / "lib"
            if progress:
                progress(f"installing {lock.name}")
            _run_installer(lock, target, runtime, python)
            target.rename(into)
    return into


def refuse_other_sources(lock: Path) -> None:
    """Raise `BuildError` for a line of the lock that names where to fetch from, on its own account.

    Hosts of the setting TANDEM_ALLOWED_HOSTS (comma-separated) may be named.
    """
    allowed = {one.strip().lower() for one in os.environ.get("TANDEM_ALLOWED_HOSTS", "").split(",")}
    try:
        text = lock.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise BuildError(f"{lock.name} cannot be read: {problem}") from None
    for raw in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        hosts = {(urlsplit(url).hostname or "") for url in re.findall(r"[\w+.-]+://\S+", line)}
        if hosts and hosts - {""} <= allowed and "" not in hosts:
            continue
        named = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^]]*\]\s*)?==", line)
        if line and (hosts or not named):
            raise BuildError(
                f"{lock.name} has the line {_without_login(line)[:80]!r}: only NAME==VERSION with "
                "hashes is taken, or a URL of a host that TANDEM_ALLOWED_HOSTS names"
            )


def _run_installer(lock: Path, target: Path, runtime: Runtime | None, python: str) -> None:
    refuse_other_sources(lock)
    common = ["--quiet", "--require-hashes", "--no-deps", "--target", str(target)]
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if uv := _uv():
        argv = [uv, "pip", "install", "--python", python, "--only-binary=:all:", *common]
        argv += ["-r", str(lock)]
        argv += ["--no-config", "--index-strategy=unsafe-best-match", "--no-progress"]
        if runtime:
            argv += [f"--python-version={runtime.version}", f"--python-platform={_uv_tag(runtime)}"]
        env |= uv_settings(env)
    else:
        argv = [python, "-m", "pip", "install", "--only-binary=:all:", "--no-compile", *common]
        argv += ["--no-input", "--disable-pip-version-check", "--no-warn-script-location"]
        if runtime:
            argv += [f"--python-version={runtime.version}", "--implementation=cp"]
            argv += [f"--abi=cp{runtime.version.replace('.', '')}", "--abi=abi3", "--abi=none"]
            argv += [f"--platform={tag}" for tag in _manylinux(runtime)]
            # pip asks its own Python about markers (pypa/pip#11664), so they are answered here.
            lock = _answered(lock, runtime, target.parent / lock.name)
        argv += ["-r", str(lock)]
    done = subprocess.run(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o022,
    )
    if done.returncode:
        # pip warns about much on the way; what stopped it comes last.
        said = [
            line.strip(" \t\u00d7\u251c\u2570\u2500\u25b6\u2502")
            for line in done.stderr.splitlines()
        ]
        words = _without_login(" ".join(line for line in said if line and "WARNING" not in line))
        words = words if len(words) < MOST_WORDS else "…" + words[-MOST_WORDS:]
        raise BuildError(f"installing {lock.name} failed: {words or 'the installer says nothing'}")


def _answered(lock: Path, runtime: Runtime, into: Path) -> Path:
    """A copy of a lock file without markers, and without what they rule out for `runtime`."""
    into.write_text("\n".join(_lines(lock, runtime)) + "\n", "utf-8")
    return into


def locked_components(lock: Path, runtime: Runtime) -> tuple[Component, ...]:
    """What a lock file installs for `runtime`, by name and version; nothing else is known of it."""
    pinned = (
        re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*==\s*([^\s\\]+)", line)
        for line in _lines(lock, runtime)
    )
    return tuple(Component(name=one[1], version=one[2]) for one in pinned if one)


def _lines(lock: Path, runtime: Runtime) -> list[str]:
    """The requirements of a lock file that are for `runtime`, one a line, without their markers."""
    from packaging.markers import InvalidMarker, Marker

    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(runtime.platform.architecture, "")
    environment = {
        "python_version": runtime.version,
        "python_full_version": f"{runtime.version}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    kept = []
    for line in re.sub(r"\\\n", " ", lock.read_text("utf-8")).splitlines():
        match = re.match(r"([^;#]+);((?:(?!\s--hash|\s#).)+)(.*)", line)
        try:
            if match and not Marker(match[2].strip()).evaluate(environment):
                continue
        except InvalidMarker as problem:
            raise BuildError(f"{lock.name}: {str(problem).splitlines()[0]}") from None
        kept.append(match[1] + match[3] if match else line)
    return kept


def _without_login(text: str) -> str:
    return re.sub(r"://[^/@\s]+@", "://", text)


def _uv() -> str | None:
    """uv, when it is installed beside this Python: here 0.4 s against pip's 6 s."""
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    return str(beside) if importlib.util.find_spec("uv") and beside.exists() else None


def _manylinux(runtime: Runtime) -> list[str]:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[runtime.platform.architecture]
    minor = int(runtime.libc.rpartition(".")[2] or 17)
    tags = [f"manylinux_2_{n}_{machine}" for n in range(minor, 4, -1)]
    return [*tags, f"manylinux2014_{machine}", f"linux_{machine}"]


def _uv_tag(runtime: Runtime) -> str:
    # uv knows the platforms that wheels are made for; the newest of them that this libc can load.
    known = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
    minor = int(runtime.libc.rpartition(".")[2] or 17)
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[runtime.platform.architecture]
    return f"{machine}-manylinux_2_{max(n for n in known if n <= max(minor, 17))}"


def uv_settings(env: Mapping[str, str]) -> dict[str, str]:
    """pip's settings as uv wants them: what a person has set up for pip works for both.

    A variable that is set for uv already wins.
    """
    pip = pip_settings(env)
    found: dict[str, str] = {}
    if value := pip.get("index-url"):
        found["UV_DEFAULT_INDEX"] = value
    if value := pip.get("extra-index-url"):
        found["UV_INDEX"] = " ".join(value.split())
    if value := pip.get("find-links"):
        found["UV_FIND_LINKS"] = ",".join(value.split())
    if value := pip.get("trusted-host"):
        found["UV_INSECURE_HOST"] = " ".join(value.split())
    if value := pip.get("cert"):
        found["SSL_CERT_FILE"] = value
    if value := pip.get("proxy"):
        found |= {"HTTPS_PROXY": value, "HTTP_PROXY": value}
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        found["UV_NO_INDEX"] = "1"
    return {name: value for name, value in found.items() if name not in env}


def pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What pip's files and environment variables say, by pip's own order of precedence."""
    home = Path(env.get("HOME") or Path.home())
    files = [
        *(Path(one) / "pip/pip.conf" for one in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        home / "Library/Application Support/pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    if named := env.get("PIP_CONFIG_FILE"):
        files = [] if named == os.devnull else [*files, Path(named)]
    parser = configparser.RawConfigParser()
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as problem:
        raise BuildError(f"pip's settings cannot be read: {problem}") from None
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in env.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


_NOISE = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json", "uv_build.json"}
"""Files of a `.dist-info` that tell who installed it, when and from where."""


def tidy(lib: Path) -> tuple[Component, ...]:
    """Leave in an installed folder only what the wheels themselves say, and list what they are.

    Scripts go (their first line names this machine's Python; `python3 -m` does the same),
    installers' notes go, and each RECORD is written again in order, without them.
    """
    (lib / ".lock").unlink(missing_ok=True)
    scripts = lib / "bin"
    if scripts.is_dir():
        for script in scripts.iterdir():
            with script.open("rb") as file:
                if file.read(2) == b"#!":
                    script.unlink()
        if not any(scripts.iterdir()):
            scripts.rmdir()
    components = []
    for info in sorted(lib.glob("*.dist-info")):
        text = (info / "METADATA").read_text("utf-8", "replace")
        components.append(component_of(text, info.name))
        record = info / "RECORD"
        rows = []
        if record.exists():
            for row in csv.reader(record.read_text("utf-8").splitlines()):
                inside = row and not row[0].startswith(("..", "/")) and not row[0].endswith(".pyc")
                if inside and (lib / row[0]).exists() and Path(row[0]).name not in _NOISE:
                    rows.append([row[0], *row[1:3]])
        for name in _NOISE:
            (info / name).unlink(missing_ok=True)
        rewritten = io.StringIO()
        own = f"{info.name}/RECORD"
        csv.writer(rewritten, lineterminator="\n").writerows([*sorted(rows), [own, "", ""]])
        record.write_text(rewritten.getvalue(), "utf-8")
    return tuple(components)


def component_of(metadata: str, folder: str) -> Component:
    """What the METADATA file in a `.dist-info` folder of that name says."""
    said = HeaderParser().parsestr(metadata)
    name, _, version = folder.removesuffix(".dist-info").rpartition("-")
    return Component(
        name=str(said.get("Name") or name),
        version=str(said.get("Version") or version),
        license=_license(said),
        summary=str(said.get("Summary") or "").strip(),
    )


def _license(said: Message) -> str:
    """The licence in a few words: the newest field first, and never a whole text."""
    words = [str(said.get("License-Expression") or ""), str(said.get("License") or "")]
    for one in words:
        if 0 < len(one.strip()) < 60 and "\n" not in one.strip():
            return one.strip()
    classifiers = [str(one).split(" :: ") for one in said.get_all("Classifier") or []]
    # "License :: OSI Approved" alone names none.
    named = [one[-1].strip() for one in classifiers if one[0] == "License" and len(one) > 2]
    return ", ".join(dict.fromkeys(named))
