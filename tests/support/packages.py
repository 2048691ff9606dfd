"""Small real packages of every kind that is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tandem.model.package import Picture
from tandem.model.writing import write


def make_package(kind: str, folder: Path) -> None:
    """A small package of that kind in a new folder."""
    from sklearn.datasets import load_diabetes, load_digits, load_iris
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "digits":
        rows, truth = load_digits(return_X_y=True)
        rows = rows[:600].astype(np.float32)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        model.fit(rows, truth[:600])
        picture = Picture(width=8, height=8)
        write(folder, model, name=kind, sample=rows, metrics={"accuracy": 0.9}, image=picture)
    elif kind == "iris":
        data = load_iris()
        write(
            folder,
            GaussianNB().fit(data.data, data.target),
            name=kind,
            sample=data.data,
            labels=[str(name) for name in data.target_names],
            feature_names=data.feature_names,
            onnx=False,
        )
    elif kind == "diabetes":
        data = load_diabetes()
        model = Ridge().fit(data.data, data.target)
        write(folder, model, name=kind, sample=data.data, feature_names=data.feature_names)
    elif kind == "mixed":
        from sklearn.compose import make_column_transformer
        from sklearn.preprocessing import OneHotEncoder

        rng = np.random.default_rng(1)
        rows = np.empty((200, 2), dtype=object)
        rows[:, 0] = rng.choice(["red", "blue"], 200)
        rows[:, 1] = rng.random(200)
        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), [0]), remainder="passthrough"
        )
        model = make_pipeline(encode, LogisticRegression())
        model.fit(rows, rows[:, 0] == "red")
        names = ["colour", "size"]
        write(folder, model, name=kind, sample=rows, labels=["no", "yes"], feature_names=names)
    elif kind == "words":
        from sklearn.feature_extraction.text import CountVectorizer

        texts = ["good day", "bad day", "good night", "bad night"] * 10
        model = make_pipeline(CountVectorizer(), LogisticRegression())
        model.fit(texts, ["good", "bad"] * 20)
        write(folder, model, name=kind, sample=texts, onnx=False)
    else:
        raise ValueError(kind)
