"""Coverage-guided fuzzing of all that decodes what strangers send, with atheris.

python tests/support/fuzz_decoders.py pictures|score|infer [-max_total_time=SECONDS …]

Anything but an answer or a Problem of the 4xx kind is a crash, which is written to a file.
test_fuzz.py runs it for a moment; a long run is for a person to start.
"""

from __future__ import annotations

import base64
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

with atheris.instrument_imports(include=["serving", "tandem.serving", "PIL"]):
    import PIL.Image
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin  # noqa: F401

    from serving import pictures
    from tandem.serving.model import load
    from tandem.serving.problems import Problem
    from tandem.serving.settings import Settings

from support.apps import create_app  # noqa: E402
from support.asking import digit, picture_of  # noqa: E402
from support.packages import make_package  # noqa: E402


def expected(work: Callable[[], object]) -> None:
    """Run it; refusals are as good as answers."""
    try:
        work()
    except Problem as problem:
        if not 400 <= problem.status < 500:
            raise


def main() -> None:
    """Fuzz the decoder that the first argument names."""
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp())
    make_package("digits", folder / "digits")
    service = create_app(
        load(folder / "digits"),
        Settings(model=folder / "digits"),
        extension={"adapters": [pictures.Pictures()]},
    ).service
    spec, ink = service.model.manifest.image, pictures.trained_ink(service.model.manifest)
    row = digit(0)[0]

    def picture(data: bytes) -> None:
        text = base64.b64encode(data).decode()

        def made() -> object:
            opened = pictures.open_picture(text, 0, 100_000)
            return pictures.to_row(pictures.grey(opened, 0), spec, ink)

        expected(made)

    seeds = {
        "pictures": [
            base64.b64decode(picture_of(row, size, kind))
            for size in (8, 24)
            for kind in ("PNG", "JPEG")
        ],
        "score": [
            b'{"rows": [[' + b"0," * 63 + b"1.5]]}",
            b'{"images": ["' + picture_of(row).encode() + b'"]}',
        ],
        "infer": [
            b'{"id": "a", "inputs": [{"name": "row", "shape": [1, 64], "datatype": "FP32", '
            b'"data": [' + b"0," * 63 + b'1.5]}], "outputs": [{"name": "label"}]}'
        ],
    }
    targets = {
        "pictures": picture,
        "score": lambda data: expected(lambda: service.scoring.score(data)),
        "infer": lambda data: expected(lambda: service.scoring.infer(data)),
    }
    name = sys.argv.pop(1)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds[name]):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
