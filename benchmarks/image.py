"""How fast images are made and pushed, how many bytes move, and whether the same stays the same.

Needs $REGISTRY with its login; the comparisons with Docker need $DOCKER_HOST and $BASE_IMAGE too
and are left out, with a word, where these are missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from measure import Figures, in_turn, seconds

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from support.faulty_proxy import Proxy  # noqa: E402

from tandem.oci import Registry  # noqa: E402
from tandem.oci.app_image.assemble import build_app_image  # noqa: E402
from tandem.oci.app_image.docker_build import build_with_docker, engine_problem  # noqa: E402
from tandem.oci.attest.materials import attach_materials  # noqa: E402
from tandem.oci.attest.provenance import Origin  # noqa: E402
from tandem.oci.attest.referrers import read_artifact, referrers  # noqa: E402
from tandem.oci.components import Component  # noqa: E402
from tandem.oci.credentials import Credentials  # noqa: E402
from tandem.oci.image import Image, make_image  # noqa: E402
from tandem.oci.layer import make_layer, model_layer  # noqa: E402
from tandem.oci.pack import pack  # noqa: E402
from tandem.oci.push import push  # noqa: E402
from tandem.oci.remote.client import RemoteRegistry  # noqa: E402
from tandem.oci.tar import data_entry  # noqa: E402

MODEL = 5_900_000
PATHS = (
    "serving",
    "tandem/__init__.py",
    "tandem/contract.py",
    "tandem/errors.py",
    "tandem/serving",
    "tandem/model/__init__.py",
    "tandem/model/package",
)
LOCK = "requirements/serving.txt"
VARIATIONS = 100
LARGE = 1 << 30


def login() -> Credentials:
    return Credentials(os.environ["REGISTRY_USERNAME"], os.environ["REGISTRY_PASSWORD"])


def new_repository(host: str = "") -> RemoteRegistry:
    name = f"bench/{uuid.uuid4().hex[:12]}"
    return RemoteRegistry(f"{host or os.environ['REGISTRY']}/{name}", credentials=login())


def package(folder: Path) -> Path:
    """A model package of the example's size; bytes that do not shrink, other ones each time."""
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text('{"name": "digits"}')
    (folder / "model.onnx").write_bytes(os.urandom(MODEL))
    return folder


ORIGIN = Origin(app="digits", commit="c" * 40, model="digits", model_version=1)
COMPONENTS = [
    Component(name=f"library-{number}", version="1.0", license="Apache-2.0") for number in range(29)
]


def put_model(registry: Registry, app: Image, folder: Path, spool: Path) -> Image:
    """All that a release does with the registry when only the model is new."""
    image, _ = pack(
        registry,
        app.digest,
        lambda: model_layer(folder, into=spool),
        lambda below: below.with_config(labels={"tandem.model.version": "1"}),
        ORIGIN,
        tag="model",
        expect_new=True,
        cache=spool / "cache",
    )
    return image


def raw_upload(connection: http.client.HTTPConnection, name: str, data: bytes) -> None:
    """The floor: sha256, one POST, one PUT of the same bytes, on an open connection."""
    digest = hashlib.sha256(data).hexdigest()
    headers = {"Authorization": login().basic}
    connection.request("POST", f"/v2/{name}/blobs/uploads/", headers=headers)
    answer = connection.getresponse()
    answer.read()
    where = answer.headers["Location"].partition("/v2/")[2]
    url = f"/v2/{where}&digest=sha256%3A{digest}"
    connection.request("PUT", url, body=data, headers=headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 201:
        raise SystemExit(f"the raw upload was answered {answer.status}")


def small_app(registry: Registry, scratch: Path) -> Image:
    """An app image with layers that do not matter here."""
    layers = [
        make_layer(
            [data_entry(f"app/{name}", os.urandom(100_000))],
            kind=name,
            compression="none",
            into=scratch,
        )
        for name in ("base", "dependencies", "application")
    ]
    image = make_image(None, [one.layer for one in layers], labels={"tandem.app": "digits"})
    sources = {one.layer.descriptor.digest: one.open for one in layers}
    push(registry, image, sources, tag="app")
    attach_materials(registry, image, COMPONENTS, app="digits")
    return image


def model_only(figures: Figures, scratch: Path) -> None:
    registry = new_repository()
    app = small_app(registry, scratch)
    host, _, name = registry.url.partition("/")
    connection = http.client.HTTPConnection(host)
    folder = scratch / "model"
    ready: list[bytes] = []

    def make_ready() -> None:
        package(folder)
        ready[:] = [os.urandom(MODEL)]

    def ours() -> None:
        put_model(registry, app, folder, scratch)

    def raw() -> None:
        raw_upload(connection, name, ready[0])

    pairs = []
    for number in range(32):
        make_ready()
        pair = (seconds(ours), seconds(raw))
        if number > 1:
            pairs.append(pair)
    own, floor = (sorted(one)[len(one) // 2] for one in zip(*pairs, strict=True))
    figures.add("model only: build, push and attest", own, "s")
    figures.add("model only: sha256 + raw POST/PUT", floor, "s")
    figures.add("model only / raw", own / floor, "x", "<= 2.0")


def against_docker(figures: Figures, scratch: Path, base: str) -> None:
    """The same change by a well-ordered Dockerfile: one COPY on the app image."""
    registry = new_repository()
    context = scratch / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {base}\nCOPY model /model\n")
    app = small_app(registry, scratch)
    reference = f"{registry.url}:docker"
    env = {**os.environ, "DOCKER_BUILDKIT": "1"}

    def docker() -> None:
        for argv in (
            ["docker", "build", "--quiet", "--tag", reference, str(context)],
            ["docker", "push", "--quiet", reference],
        ):
            subprocess.run(argv, check=True, capture_output=True, env=env)

    def ours() -> None:
        put_model(registry, app, context / "model", scratch)

    taken = []
    for number in range(6):
        package(context / "model")
        pair = (seconds(ours), seconds(docker))
        if number:
            taken.append(pair)
    own, engine = (sorted(one)[len(one) // 2] for one in zip(*taken, strict=True))
    forget(registry.url)
    figures.add("model only: docker build + push", engine, "s")
    figures.add("docker / model only", engine / own, "x", ">= 4.0")


def forget(repository: str) -> None:
    """Take the engine's images of a repository away."""
    argv = ["docker", "images", "--quiet", "--filter", f"reference={repository}"]
    listed = subprocess.run(argv, capture_output=True, text=True).stdout.split()
    subprocess.run(["docker", "image", "rm", "--force", *listed], capture_output=True)


def bytes_and_requests(figures: Figures, scratch: Path) -> None:
    proxy = Proxy(os.environ["REGISTRY"], (login().username, login().password))
    try:
        registry = new_repository(proxy.host)
        app = small_app(registry, scratch)
        folder = package(scratch / "counted")
        before = proxy.blob_bytes()
        image = put_model(registry, app, folder, scratch)
        wanted = image.layers[-1].descriptor.size + len(image.config)
        for referrer in referrers(registry, image.digest):
            wanted += len(read_artifact(registry, referrer, image.digest)[1])
        sent = proxy.blob_bytes() - before
        figures.add(
            "blob bytes sent / (model layer, config, statements)", sent / wanted, "x", "<= 1.0"
        )
        proxy.seen.clear()
        layer = model_layer(folder, into=scratch)
        push(
            registry,
            image,
            {layer.layer.descriptor.digest: layer.open},
            tag="model",
            based_on=app,
        )
        figures.add("nothing changed: blob bytes sent", proxy.blob_bytes(), "bytes", "<= 0")
        most = len(image.layers) + 3
        figures.add("nothing changed: requests", len(proxy.seen), "", f"<= {most}")
    finally:
        proxy.stop()


VARIED = """\
import os, random, sys
from pathlib import Path
number = int(sys.argv[1])
os.umask([0o022, 0o077, 0o002, 0o027][number % 4])
sys.path.insert(0, sys.argv[2])
from tandem.oci.app_image.assemble import image_settings
from tandem.oci.app_image.layers import application_layer
from tandem.oci.image import Platform, make_image
from tandem.oci.layer import model_layer
source, out = Path(sys.argv[3]), Path(sys.argv[4])
files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
random.Random(number).shuffle(files)
for path in files:
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_bytes((source / path).read_bytes())
    os.utime(out / path, (number * 1000, number * 7919))
paths = [
    "serving", "tandem/__init__.py", "tandem/contract.py", "tandem/errors.py",
    "tandem/serving", "tandem/model/__init__.py", "tandem/model/package",
]
random.Random(number).shuffle(paths)
app = application_layer(out / "app", paths, into=out / "layers")
model = model_layer(out / "model", into=out / "layers")
settings = image_settings(app="digits", commit="c" * 40, python="3.11")
print(make_image(None, [app.layer, model.layer], platform=Platform(), **settings).digest)
"""


def same_digest(figures: Figures, scratch: Path) -> None:
    """A hundred times the same inputs, each time in other circumstances."""
    source = scratch / "source"
    for path in PATHS:
        target = source / "app" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if (REPOSITORY / path).is_dir():
            leave = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / path, target, ignore=leave)
        else:
            shutil.copy(REPOSITORY / path, target)
    package(source / "model")
    memory = Path("/dev/shm")
    digests = set()
    for number in range(VARIATIONS):
        # Every other time on another file system, which lists folders in another order.
        where = memory if number % 2 and memory.is_dir() else scratch
        with tempfile.TemporaryDirectory(dir=where) as out:
            env = {
                "PATH": os.environ["PATH"],
                "TZ": random.Random(number).choice(["UTC", "Asia/Kathmandu", "America/St_Johns"]),
                "LC_ALL": random.Random(number).choice(["C", "C.UTF-8", "de_DE.UTF-8"]),
                "PYTHONHASHSEED": str(number),
            }
            argv = [sys.executable, "-c", VARIED, str(number), str(REPOSITORY), str(source), out]
            done = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
            digests.add(done.stdout.strip())
    figures.add(f"digests of {VARIATIONS} builds of the same inputs", len(digests), "", "<= 1")


def memory(figures: Figures, scratch: Path) -> None:
    """A process of its own packs and pushes a model of 1 GB; what it needs above its imports."""
    folder = scratch / "large"
    folder.mkdir()
    block = random.Random(1).randbytes(1 << 20)
    with (folder / "model.onnx").open("wb") as file:
        for _ in range(LARGE >> 20):
            file.write(block)
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(folder), new_repository().url],
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(folder)
    figures.add("memory above baseline, 1 GB model", float(done.stdout), "MB", "<= 64")


def memory_of_one_push(folder: Path, url: str) -> None:
    def peak() -> float:
        # Not ru_maxrss, which a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    registry = RemoteRegistry(url, credentials=login())
    registry.tags()
    before = peak()
    layer = model_layer(folder, into=folder.parent)
    image = make_image(None, [layer.layer])
    push(registry, image, {layer.layer.descriptor.digest: layer.open}, tag="large")
    print(peak() - before)


def cold(figures: Figures, scratch: Path, base: str) -> None:
    """The example's app image from nothing, wheels already downloaded: ours, and BuildKit's."""
    os.environ["TANDEM_REGISTRY"] = f"{os.environ['REGISTRY']}/x"
    os.environ["TANDEM_REGISTRY_USERNAME"] = login().username
    os.environ["TANDEM_REGISTRY_PASSWORD"] = login().password
    commit = scratch / "commit"
    commit.mkdir()
    argv = ["git", "-C", str(REPOSITORY), "archive", "HEAD"]
    files = subprocess.run(argv, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(commit)], input=files, check=True)
    made: dict[str, Image] = {}
    common = {"app": "digits", "commit": "c" * 40, "base": base}

    def ours() -> None:
        registry = new_repository()
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            app = build_app_image(
                commit, PATHS, commit / LOCK, cache=Path(cache), registry=registry, **common
            )
            push(registry, app.image, app.sources, tag="app", mount_from=app.mount_from)
        made["ours"] = app.image

    def docker() -> None:
        # A stamp in the Dockerfile's first step: nothing is taken from BuildKit's cache but wheels.
        text = (REPOSITORY / "Dockerfile").read_text()
        stamp = f"RUN : {uuid.uuid4().hex}\n"
        (commit / "Dockerfile").write_text(text.replace("RUN", f"{stamp}RUN", 1))
        registry = new_repository()
        app = build_with_docker(commit, commit / LOCK, registry=registry, tag="app", **common)
        made["docker"] = app.image
        forget(registry.url)

    own, engine = in_turn([ours, docker], runs=1, warm=1)
    figures.add("cold build and push, assembled", own, "s")
    figures.add("cold build and push, BuildKit", engine, "s")
    figures.add("assembled / BuildKit, cold", own / engine, "x", "<= 1.0")
    figures.add("size assembled", made["ours"].size / 1e6, "MB")
    figures.add("size by BuildKit", made["docker"].size / 1e6, "MB")
    ratio = made["ours"].size / made["docker"].size
    figures.add("assembled / BuildKit, size", ratio, "x", "<= 1.0")


def main() -> int:
    if missing := [name for name in ("REGISTRY", "REGISTRY_USERNAME") if name not in os.environ]:
        print(f"not measured: {', '.join(missing)} not set")
        return 0
    figures = Figures("Images")
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        scratch = Path(temporary)
        model_only(figures, scratch)
        bytes_and_requests(figures, scratch)
        same_digest(figures, scratch)
        memory(figures, scratch)
        base = os.environ.get("BASE_IMAGE", "")
        if problem := engine_problem() or ("" if base else "BASE_IMAGE is not set"):
            print(f"not compared with Docker: {problem}")
        else:
            against_docker(figures, scratch, base)
            cold(figures, scratch, base)
    return figures.show()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        memory_of_one_push(Path(sys.argv[2]), sys.argv[3])
    else:
        sys.exit(1 if main() else 0)
