"""Pictures as a question: decoded safely, made into rows as the model wants them."""

from __future__ import annotations

import base64
import binascii
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tandem.errors import SettingError
from tandem.model.package import Manifest
from tandem.serving import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

    from tandem.model.package import Picture
    from tandem.serving.model import Model

FORMATS = ("PNG", "JPEG")
LARGE = 1024  # pixels a side that are looked at
INK = 32  # of 255: fainter than this is paper, dust or the noise of JPEG


class Bounds(msgspec.Struct, frozen=True):
    """What one request may bring; a variable named DIGITS_MAX_… sets each."""

    images: int = 64
    pixels: int = 16_000_000  # of one picture
    request_pixels: int = 32_000_000  # of all pictures of a request: about 2 s of work

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Bounds:
        """The bounds of this environment. Raises SettingError."""
        values: dict[str, int] = {}
        for field in cls.__struct_fields__:
            name = f"DIGITS_MAX_{field.upper()}"
            if text := environ.get(name, "").strip():
                if not text.isdecimal() or not 1 <= int(text[:12]) <= 10**10:
                    raise SettingError(f"{name}={text!r}: expected a number from 1 to 10000000000")
                values[field] = int(text)
        return cls(**values)


class Pictures:
    """The field "images" of POST /score: an InputAdapter."""

    field = "images"
    item = str

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.problems: Mapping[int, str] = {
            413: "Or its pictures have too many pixels together.",
        }

    def fits(self, model: Model) -> bool:
        """Whether the model was trained on pictures."""
        return model.manifest.image is not None

    def schema(self, model: Model) -> dict[str, Any]:
        """PNG or JPEG in base64."""
        return {
            "type": "array",
            "items": {"type": "string", "contentEncoding": "base64"},
            "minItems": 1,
            "maxItems": self.bounds.images,
            "description": "PNG or JPEG pictures in base64.",
        }

    def rows(self, items: Sequence[str], model: Model) -> np.ndarray:
        """One row a picture. Raises Problem: 422 that names the picture at fault, or 413."""
        spec = model.manifest.image
        assert spec is not None  # noqa: S101 - it fits
        bounds = self.bounds
        if len(items) > bounds.images:
            raise Problem(422, f"{len(items)} images are too many: at most {bounds.images}.")
        if not items:
            raise Problem(422, "There is nothing to score: the list is empty.")
        opened = [open_picture(text, at, bounds.pixels) for at, text in enumerate(items)]
        # Each holds a slot for as long as its pixels take: all are counted before any is unpacked.
        pixels = sum(picture.width * picture.height for picture in opened)
        if pixels > bounds.request_pixels:
            raise Problem(
                413,
                f"The images have {pixels} pixels together, "
                f"at most {bounds.request_pixels} are taken in one request.",
            )
        ink = trained_ink(model.manifest)
        rows = []
        for number in range(len(opened)):
            picture = opened.pop(0)  # and forgotten: unpacked it is large
            rows.append(to_row(grey(picture, number), spec, ink))
        shape = [len(items), *(model.features[0].shape or [-1])]
        return np.array(rows, dtype=model.features[0].dtype).reshape(shape)

    def warm_up(self, model: Model) -> None:
        """Load the decoders and ask them once."""
        import PIL.Image

        spec = model.manifest.image
        assert spec is not None  # noqa: S101 - it fits
        for kind in FORMATS:
            stream = io.BytesIO()
            picture = PIL.Image.new("L", (32, 32), "white")
            picture.paste(0, (10, 10, 20, 20))
            picture.save(stream, kind)
            text = base64.b64encode(stream.getvalue()).decode()
            to_row(grey(open_picture(text, 0, 10**9), 0), spec, 0.5)


def open_picture(text: str, number: int, max_pixels: int) -> Image:
    """The picture in base64 (or a data: URL), of which only the header has been read.

    Raises Problem (422).
    """
    import PIL.Image

    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Problem(422, f"Image {number} is not base64.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is far above ours
            picture: Image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.Image.DecompressionBombError:
        raise Problem(422, f"Image {number} has more than {max_pixels} pixels.") from None
    except Exception:  # noqa: BLE001 - a decoder may fail in any way on hostile bytes
        raise Problem(422, f"Image {number} is not a whole PNG or JPEG picture.") from None
    # The size is in the header: a bomb is refused before a pixel of it is unpacked.
    if picture.width * picture.height > max_pixels:
        raise Problem(
            422,
            f"Image {number} has {picture.width} by {picture.height} pixels, "
            f"at most {max_pixels} are taken.",
        )
    return picture


def grey(picture: Image, number: int) -> Image:
    """An opened picture in grey, unpacked. Raises Problem (422)."""
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A photo has far more pixels than any model here sees.
            picture.draft("L", (LARGE, LARGE))
            picture.load()
            if (times := max(picture.size) // LARGE) > 1:
                picture = picture.convert(_plain(picture)).reduce(times)
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                paper = PIL.Image.new("RGBA", picture.size, "white")
                picture = PIL.Image.alpha_composite(paper, picture)
            if picture.mode.startswith("I"):  # 16 bits a pixel, which convert() would cut off
                wide = np.asarray(picture, dtype=np.float32)
                return PIL.Image.fromarray((wide / 257).clip(0, 255).astype(np.uint8))
            return picture.convert("L")
    except Exception:  # noqa: BLE001 - a decoder may fail in any way on hostile bytes
        raise Problem(422, f"Image {number} is not a whole PNG or JPEG picture.") from None


def _plain(picture: Image) -> str:
    """A mode that can be averaged and keeps what the picture has."""
    if picture.mode.startswith("I"):
        return "I"
    return "RGBA" if picture.has_transparency_data else "L"


def to_row(picture: Image, spec: Picture, ink: float | None = None) -> np.ndarray:
    """The pixels as in training: `spec.background` paper, 0 to `spec.maximum`.

    A picture of exactly the model's size is taken as it is. Another is somebody's drawing or photo:
    it is cut to its ink, its strokes are made as thick as those in training (`ink` is the share of
    the frame that they filled there), and it is fitted into the frame in its own proportions.
    """
    light = np.asarray(picture, dtype=np.float32)
    edge = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    if np.median(edge) > 127:  # dark ink on bright paper
        light = 255 - light
    if light.shape != (spec.height, spec.width):
        light = _fit(light, spec.width, spec.height, ink)
    if spec.background != "black":
        light = 255 - light
    return (light * (spec.maximum / 255)).reshape(-1)


def trained_ink(manifest: Manifest) -> float | None:
    """The share of the frame that ink filled in training, where the package says so."""
    spec, statistics = manifest.image, manifest.statistics
    if spec is None or statistics is None or not statistics.mean:
        return None
    share = sum(statistics.mean) / len(statistics.mean) / spec.maximum
    return share if spec.background == "black" else 1 - share


def _fit(light: np.ndarray, width: int, height: int, ink: float | None) -> np.ndarray:
    import PIL.Image
    import PIL.ImageFilter
    import PIL.ImageOps

    light = light - np.percentile(light, 5)  # paper is rarely quite white
    light = light.clip(0, None) * (255 / max(float(light.max()), INK))
    if not (light > INK).any():
        return np.zeros((height, width), dtype=np.float32)
    light = _cut(light)
    # At eight times the model's size strokes can still be told apart and thickened step by step.
    scale = 8 * max(width, height) / max(light.shape)
    size = (max(1, round(light.shape[1] * scale)), max(1, round(light.shape[0] * scale)))
    way = PIL.Image.Resampling.BOX if scale < 1 else PIL.Image.Resampling.BILINEAR
    large = PIL.Image.fromarray(light.astype(np.uint8)).resize(size, way)
    frame = _frame(np.asarray(large, dtype=np.float32), width, height)
    if ink is None:
        return frame
    large = PIL.ImageOps.expand(large, border=2 * max(width, height))
    for _ in range(max(width, height)):
        missing = ink - frame.mean() / 255
        if missing <= 0:
            break
        large = large.filter(PIL.ImageFilter.MaxFilter(3))
        thicker = _frame(_cut(np.asarray(large, dtype=np.float32)), width, height)
        if abs(ink - thicker.mean() / 255) > missing:
            break
        frame = thicker
    return frame


def _cut(light: np.ndarray) -> np.ndarray:
    inked = light > INK
    rows, columns = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
    return light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _frame(light: np.ndarray, width: int, height: int) -> np.ndarray:
    import PIL.Image

    scale = min(width / light.shape[1], height / light.shape[0])
    size = (max(1, round(light.shape[1] * scale)), max(1, round(light.shape[0] * scale)))
    small = np.asarray(PIL.Image.fromarray(light).resize(size, PIL.Image.Resampling.BOX))
    frame = np.zeros((height, width), dtype=np.float32)
    top, left = (height - size[1]) // 2, (width - size[0] + 1) // 2
    frame[top : top + size[1], left : left + size[0]] = small
    return frame
