"""scikit-learn's digits: 1,797 pictures of 8 x 8 pixels, their splits, and warped copies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SIDE = 8
INK = 16.0
"""A pixel's value where all of it is ink (white); 0 is paper (black)."""

Rows = NDArray[np.float32]
Digits = NDArray[np.int64]


def load() -> tuple[Rows, Digits]:
    """All pictures as rows of 64 numbers, with what they show.

    In the order in which writers wrote them.
    """
    from sklearn.datasets import load_digits

    rows, digits = load_digits(return_X_y=True)
    return rows.astype(np.float32), digits.astype(np.int64)


def digest(rows: Rows, digits: Digits) -> str:
    """What the training data was: sha256 of the numbers."""
    told = hashlib.sha256(np.ascontiguousarray(rows).tobytes())
    told.update(np.ascontiguousarray(digits).tobytes())
    return f"sha256:{told.hexdigest()}"


def hold_out(digits: Digits, fraction: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers to train on, and those that training never sees: `fraction` of each digit's.

    The same ones whatever the training's seed: versions can only be compared on one held-out set.
    """
    generator = np.random.default_rng(20)
    held_out = np.sort(
        np.concatenate(
            [
                generator.permutation(np.flatnonzero(digits == digit))[
                    : round(fraction * np.count_nonzero(digits == digit))
                ]
                for digit in np.unique(digits)
            ]
        )
    )
    return np.setdiff1d(np.arange(len(digits)), held_out), held_out


def stratified(digits: Digits, folds: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Folds with each digit in its share, rows shuffled: writers are in training and in test."""
    from sklearn.model_selection import StratifiedKFold

    yield from StratifiedKFold(folds, shuffle=True, random_state=0).split(digits, digits)


def blocks(digits: Digits, folds: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Contiguous folds: as writers wrote one after the other, the tested ones are mostly unseen."""
    from sklearn.model_selection import KFold

    yield from KFold(folds).split(digits)


def with_copies(
    rows: Rows,
    digits: Digits,
    copies: int,
    seed: int,
    *,
    rotation: float,
    scale: float,
    shift: float,
) -> tuple[Rows, Digits]:
    """The rows, and `copies` warped ones of each.

    Turned by up to `rotation` degrees, stretched and slanted by up to the share `scale`, moved by
    up to `shift` pixels."""
    generator = np.random.default_rng(seed)
    pictures = rows.reshape(-1, SIDE, SIDE)
    warped = [_warped(pictures, generator, rotation, scale, shift) for _ in range(copies)]
    return (
        np.concatenate([pictures, *warped]).reshape(-1, SIDE * SIDE).astype(np.float32),
        np.tile(digits, copies + 1),
    )


def _warped(
    pictures: Rows, generator: np.random.Generator, rotation: float, scale: float, shift: float
) -> Rows:
    count = len(pictures)
    angle = np.deg2rad(generator.uniform(-rotation, rotation, count))
    stretch = 1 + generator.uniform(-scale, scale, (count, 2))
    slant = generator.uniform(-scale, scale, count)
    move = generator.uniform(-shift, shift, (count, 2))
    matrix = np.empty((count, 2, 2))
    matrix[:, 0, 0] = np.cos(angle) * stretch[:, 0]
    matrix[:, 0, 1] = -np.sin(angle) * stretch[:, 1]
    matrix[:, 1, 0] = np.sin(angle) * stretch[:, 0] + slant
    matrix[:, 1, 1] = np.cos(angle) * stretch[:, 1]
    centre = (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")).reshape(2, -1)
    # Where each pixel of the copy comes from in the original, between its pixels: bilinear.
    places = np.einsum("nij,jk->nik", matrix, grid - centre) + centre + move[:, :, None]
    corner = np.floor(places).astype(int)
    part = places - corner
    margin = 2
    padded = np.pad(pictures, ((0, 0), (margin, margin), (margin, margin)))
    last = SIDE + 2 * margin - 1
    which = np.arange(count)[:, None]
    copy = np.zeros((count, SIDE * SIDE))
    for down in (0, 1):
        for right in (0, 1):
            weight = (part[:, 0] if down else 1 - part[:, 0]) * (
                part[:, 1] if right else 1 - part[:, 1]
            )
            at = (
                np.clip(corner[:, 0] + down + margin, 0, last),
                np.clip(corner[:, 1] + right + margin, 0, last),
            )
            copy += weight * padded[which, at[0], at[1]]
    return copy.reshape(count, SIDE, SIDE).astype(np.float32)
