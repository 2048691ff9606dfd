"""Publishing, fetching and looking for a model in Azure Blob storage, against the bare SDK calls.

Needs AZURE_STORAGE_CONNECTION_STRING (Azurite or an account), and writes into the container
tandem-bench. `--quick` leaves out the gigabyte.
"""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Figures, seconds

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

CONTAINER = "tandem-bench"
SIZE = 64 * 2**20
LARGE = 2**30
ROUNDS = 7
LOOKS = 60


def main() -> int:
    """Measure in a prefix of its own, and remove it."""
    if sys.argv[1:2] == ["--memory"]:
        return _memory(*sys.argv[2:])
    if "AZURE_STORAGE_CONNECTION_STRING" not in os.environ:
        print("benchmarks/models.py needs AZURE_STORAGE_CONNECTION_STRING: skipped")
        return 0
    figures = Figures(f"models in {CONTAINER}: ratios within this run, medians")
    prefix = f"bench-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        try:
            _speed(figures, prefix, Path(folder))
            if "--quick" not in sys.argv:
                _large(figures, prefix, Path(folder))
        finally:
            _remove(prefix)
    return figures.show()


def _container() -> Any:
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import ContainerClient

    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    container = ContainerClient.from_connection_string(connection, CONTAINER)
    try:
        container.create_container()
    except ResourceExistsError:
        pass
    return container


def _repository(prefix: str) -> Any:
    from tandem.model.repository import Repository
    from tandem.storage import open_store

    parts = os.environ["AZURE_STORAGE_CONNECTION_STRING"].strip(";").split(";")
    account = dict(part.split("=", 1) for part in parts)["AccountName"]
    return Repository(open_store(f"az://{account}/{CONTAINER}/{prefix}"), "bench")


def _remove(prefix: str) -> None:
    container = _container()
    for blob in container.list_blobs(name_starts_with=prefix):
        container.delete_blob(blob.name)


def _package(folder: Path, size: int) -> Any:
    """A package with a model file of that many random bytes: it is only carried, never opened."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    from tandem.model import writing

    rows = np.arange(40.0).reshape(20, 2)
    estimator = LogisticRegression().fit(rows, [0, 1] * 10)
    made = writing.write(folder, estimator, name="bench", sample=rows)
    _replace(folder, size)
    return made


def _replace(folder: Path, size: int) -> Any:
    """Other random bytes, so that the store has to take them; written in chunks."""
    import msgspec

    from tandem.model import package as packages
    from tandem.model import writing

    with (folder / packages.ONNX).open("wb") as stream:
        for _ in range(size // 2**20):
            stream.write(os.urandom(2**20))
    manifest, _ = packages.decode_manifest((folder / packages.MANIFEST).read_bytes())
    files = [writing.file_of(folder / file.path) for file in manifest.files]
    changed = msgspec.structs.replace(manifest, files=files)
    (folder / packages.MANIFEST).write_bytes(writing.encode_manifest(changed))
    return packages.read(folder)


def _speed(figures: Figures, prefix: str, folder: Path) -> None:
    container, repository = _container(), _repository(prefix)
    _package(folder / "package", 2**20)
    publish, upload, fetch, download = [], [], [], []
    for round_ in range(ROUNDS + 1):
        package = _replace(folder / "package", SIZE)
        content = (folder / "package" / "model.onnx").read_bytes()
        content = content[1:] + content[:1]
        blob = container.get_blob_client(f"{prefix}/bare-{round_}")
        upload.append(seconds(lambda: blob.upload_blob(content)))  # noqa: B023
        publish.append(seconds(lambda: repository.publish(package)))  # noqa: B023
        number = repository.latest().number
        into = folder / f"got-{round_}"
        bare = folder / "bare"
        with bare.open("wb") as stream:
            download.append(seconds(lambda: blob.download_blob().readinto(stream)))  # noqa: B023
        fetch.append(seconds(lambda: repository.fetch(number, into)))  # noqa: B023
        shutil.rmtree(into)
    # The first round opens connections and is left out.
    _ratio(figures, "publishing 64 MB / upload_blob of the same", publish[1:], upload[1:], 1.5)
    _ratio(figures, "fetching and verifying 64 MB / download_blob", fetch[1:], download[1:], 1.5)
    look, head = [], []
    blob = container.get_blob_client(f"{prefix}/bare-0")
    for _ in range(LOOKS):
        head.append(seconds(blob.get_blob_properties))
        look.append(seconds(repository.latest))
    _ratio(figures, "a look for a new version / one HEAD", look, head, 3.0)


def _ratio(
    figures: Figures, name: str, ours: list[float], theirs: list[float], most: float
) -> None:
    median, bare = statistics.median(ours), statistics.median(theirs)
    figures.add(name, median / bare, "x", f"<= {most}")
    figures.add(f"  {name.split(' / ')[0]}", median * 1000, "ms")


def _large(figures: Figures, prefix: str, folder: Path) -> None:
    _package(folder / "large", 2**20)
    _replace(folder / "large", LARGE)
    for what in ("publish", "fetch"):
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--memory",
                what,
                prefix,
                str(folder / "large"),
                str(folder / "small"),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        figures.add(
            f"memory above baseline, {what} of 1 GB", float(done.stdout.split()[-1]), "MB", "<= 64"
        )


def _memory(what: str, prefix: str, large: str, small: str) -> int:
    """In a process of its own: prints by how many MB its memory grew at most."""
    from tandem.model import package as packages

    repository = _repository(prefix)
    # Baseline: everything is imported and connected, and a small model has gone the same way.
    if what == "publish":
        _package(Path(small), 2**20)
        repository.publish(packages.read(small))
        package = packages.read(large)
    repository.latest()
    if what == "fetch":
        number = repository.latest().number
        repository.fetch(number - 1, Path(f"{small}-got"))
    # Not ru_maxrss: a child starts with its parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if what == "publish":
        repository.publish(package)
    else:
        repository.fetch(number, Path(f"{large}-got"))
    print((_status("VmHWM") - before) / 1024)
    return 0


def _status(name: str) -> int:
    """A field of this process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


if __name__ == "__main__":
    sys.exit(main())
