"""Training: a scaler and a small neural network, tested three ways, then published.

A network rather than a support vector machine: it is as good, and one row costs it two small matrix
products, in ONNX some microseconds. Warped copies of the training pictures teach it what a hand
does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.digits import data
from tandem.errors import SettingError
from tandem.model.metrics import Measured, Speed, calibration, confusion, microseconds
from tandem.model.package import Evaluation, Package, Picture, as_array, open_predictor
from tandem.model.publish import progress_bar
from tandem.model.repository import Repository, Version
from tandem.model.writing import write

NAME = "digits"
LABELS = [str(digit) for digit in range(10)]
IMAGE = Picture(width=data.SIDE, height=data.SIDE, maximum=data.INK, background="black")

Say = Callable[[str], None]


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What can be set in the launchpad; the same values give the same model, byte for byte.

    `copies` of each training picture are turned by up to `rotation` degrees, stretched by up to
    `scale`, moved by up to `shift` pixels. `folds` for each of the two cross-validations (0: none).
    """

    seed: int = 0
    hidden: int = 256
    alpha: float = 0.01
    epochs: int = 25
    learning_rate: float = 0.003
    batch_size: int = 256
    copies: int = 12
    rotation: float = 12.0
    scale: float = 0.12
    shift: float = 0.6
    test_fraction: float = 0.2
    folds: int = 3


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """A trained model, how good it is, and, once published, its version.

    `new`: it was not there before.
    """

    config: TrainConfig
    estimator: Any
    metrics: dict[str, float]
    measured: Measured
    sample: NDArray[Any]
    held_out: tuple[NDArray[Any], NDArray[Any]]
    training: NDArray[Any]
    data_digest: str
    seconds: float
    description: str
    labels: Sequence[str] = tuple(LABELS)
    package_size: int = 0
    runtime: str = ""
    runtime_reason: str = ""
    version: Version | None = None
    url: str = ""
    new: bool = False


def train(
    config: TrainConfig | None = None,
    *,
    repository: Repository,
    state: Path | None = None,
    training_commit: str | None = None,
    publisher: str = "",
    progress: Say | None = None,
) -> Trained:
    """Train, evaluate, package, and publish as the next version in `repository`."""
    say = progress or _silent
    trained = fit(config or TrainConfig(), progress=say)
    if state is not None:
        state.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="training-", dir=state) as folder:
        package = package_of(
            trained,
            Path(folder) / "package",
            name=repository.name,
            training_commit=training_commit,
            publisher=publisher,
        )
        speed = measure(package)
        with progress_bar(package.size, f"{repository.name} → {repository.store.url}") as moved:
            version, new = repository.publish(package, publisher=publisher, progress=moved)
        say(f"{'published' if new else 'there already'}: {repository.name} v{version.number}")
        return msgspec.structs.replace(
            trained,
            package_size=package.size,
            runtime=package.manifest.runtime,
            runtime_reason=package.manifest.runtime_reason,
            measured=msgspec.structs.replace(trained.measured, speed=speed),
            version=version,
            url=repository.url(version.number),
            new=new,
        )


def fit(config: TrainConfig, *, progress: Say | None = None) -> Trained:
    """Train on all but the held-out rows and measure on those; nothing is written anywhere."""
    say = progress or _silent
    _check(config)
    started = time.monotonic()
    rows, digits = data.load()
    train_on, held_out = data.hold_out(digits, config.test_fraction)
    say(f"training on {len(train_on)} pictures and {config.copies} warped copies of each")
    estimator = _fitted(config, rows[train_on], digits[train_on])
    probabilities = estimator.predict_proba(rows[held_out])
    metrics = evaluate(digits[held_out], probabilities)
    answers = probabilities.argmax(axis=1)
    say(f"accuracy {metrics['accuracy']:.4f} on {len(held_out)} held-out pictures")
    if config.folds:
        # On the training rows alone: the held-out ones take part in nothing before the end.
        metrics |= _cross_validated(config, rows[train_on], digits[train_on], say)
    return Trained(
        config=config,
        estimator=estimator,
        metrics=metrics,
        measured=Measured(
            rows=len(held_out),
            labels=LABELS,
            confusion=confusion(digits[held_out], answers, len(LABELS)),
            calibration=calibration(probabilities.max(axis=1), answers == digits[held_out]),
        ),
        sample=rows[held_out],
        held_out=(rows[held_out], digits[held_out]),
        training=rows[train_on],
        data_digest=data.digest(rows, digits),
        seconds=round(time.monotonic() - started, 2),
        description=_description(config, len(train_on), len(held_out)),
    )


def package_of(
    trained: Trained,
    folder: Path,
    *,
    name: str = NAME,
    training_commit: str | None = None,
    publisher: str = "",
) -> Package:
    """The model package of a trained model, in `folder`."""
    return write(
        folder,
        trained.estimator,
        name=name,
        sample=trained.sample,
        labels=LABELS,
        metrics=trained.metrics,
        parameters=msgspec.to_builtins(trained.config),
        training_commit=training_commit,
        data_digest=trained.data_digest,
        image=IMAGE,
        publisher=publisher,
        training=trained.training,
        held_out=trained.held_out,
        evaluation=Evaluation(
            description=trained.description, confusion=trained.measured.confusion
        ),
    )


def evaluate(digits: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, float]:
    """How good it is on rows that it never saw.

    Accuracy, log loss, expected calibration error, and the share of the worst digit that is read.
    """
    answers = probabilities.argmax(axis=1)
    right = answers == digits
    sure = probabilities.max(axis=1)
    bins = np.clip((sure * 10).astype(int), 0, 9)
    error = sum(
        abs(right[bins == b].mean() - sure[bins == b].mean()) * np.count_nonzero(bins == b)
        for b in np.unique(bins)
    )
    chance = np.clip(probabilities[np.arange(len(digits)), digits], 1e-15, 1)
    metrics = {
        "accuracy": right.mean(),
        "log_loss": -np.log(chance).mean(),
        "calibration_error": error / len(digits),
        "worst_digit_recall": min(right[digits == digit].mean() for digit in np.unique(digits)),
        "top3_accuracy": np.mean(
            [
                digit in row
                for digit, row in zip(digits, np.argsort(-probabilities)[:, :3], strict=True)
            ]
        ),
    }
    # Rounded, so that another machine's last bit does not make another package.
    return {name: round(float(value), 6) for name, value in metrics.items()}


def measure(package: Package) -> Speed:
    """How long one row takes, with the package's ONNX form and with its estimator."""
    row = as_array(package.manifest, package.golden().inputs[:1])
    took = {}
    for runtime in ("onnx", "sklearn") if package.has("model.onnx") else ("sklearn",):
        predictor = open_predictor(package, runtime=runtime)
        took[runtime] = microseconds(lambda predictor=predictor: predictor.predict(row))
    return Speed(**took)


def _fitted(config: TrainConfig, rows: NDArray[Any], digits: NDArray[Any]) -> Any:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler
    from threadpoolctl import threadpool_limits

    rows, digits = data.with_copies(
        rows,
        digits,
        config.copies,
        config.seed,
        rotation=config.rotation,
        scale=config.scale,
        shift=config.shift,
    )
    estimator = make_pipeline(
        MinMaxScaler(),
        MLPClassifier(
            (config.hidden,),
            alpha=config.alpha,
            max_iter=config.epochs,
            learning_rate_init=config.learning_rate,
            batch_size=min(config.batch_size, len(rows)),
            random_state=config.seed,
        ),
    )
    # One thread: the products are small, and several threads would wait for each other more than
    # they work; and sums in one order are what makes two trainings equal.
    with warnings.catch_warnings(), threadpool_limits(1):
        # The number of epochs is the setting: to stop there is what was asked for.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(rows, digits)


def _cross_validated(
    config: TrainConfig, rows: NDArray[Any], digits: NDArray[Any], say: Say
) -> dict[str, float]:
    metrics = {}
    kinds: Iterable[tuple[str, str, Any]] = (
        ("accuracy_folds", "stratified folds", data.stratified),
        ("accuracy_unseen_writers", "contiguous blocks", data.blocks),
    )
    for name, words, split in kinds:
        scores = [
            float(_fitted(config, rows[near], digits[near]).score(rows[far], digits[far]))
            for near, far in split(digits, config.folds)
        ]
        metrics[name] = round(float(np.mean(scores)), 6)
        metrics[f"{name}_worst"] = round(min(scores), 6)
        say(f"accuracy {metrics[name]:.4f} over {config.folds} {words}, worst {min(scores):.4f}")
    return metrics


def _description(config: TrainConfig, trained: int, held_out: int) -> str:
    told = (
        f"accuracy: {held_out} held-out pictures ({config.test_fraction:.0%} of each digit) that "
        f"training never saw; trained on {trained}"
    )
    if not config.folds:
        return told
    return told + (
        f". accuracy_folds: mean of {config.folds} stratified folds of the training pictures. "
        f"accuracy_unseen_writers: mean of {config.folds} contiguous blocks of them: they are in "
        "the order of their writers, so the tested ones' are mostly unseen"
    )


def _check(config: TrainConfig) -> None:
    limits = {
        "hidden": (1, 4096),
        "epochs": (1, 1000),
        "learning_rate": (1e-6, 1.0),
        "batch_size": (1, 100_000),
        "alpha": (0.0, 100.0),
        "copies": (0, 100),
        "rotation": (0.0, 90.0),
        "scale": (0.0, 0.5),
        "shift": (0.0, 4.0),
        "test_fraction": (0.05, 0.5),
        "seed": (0, 2**32 - 1),
    }
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise SettingError(f"{name}={value}: want {low:g} to {high:g}")
    if config.folds and not 2 <= config.folds <= 20:
        raise SettingError(f"folds={config.folds}: want 2 to 20, or 0 for none")


def _silent(_: str) -> None:
    pass
