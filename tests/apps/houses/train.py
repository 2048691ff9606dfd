"""Train the price model and publish it."""

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tandem

rng = np.random.default_rng(0)
n = 400
X = pd.DataFrame(
    {
        "area": rng.uniform(30, 200, n),
        "rooms": rng.integers(1, 7, n).astype(float),
        "year": rng.integers(1900, 2024, n).astype(float),
        "district": rng.choice(["centre", "harbour", "north"], n),
    }
)
y = 3000 * X.area + 9000 * X.rooms + 50 * (X.year - 1900)
y += X.district.map({"centre": 90000, "harbour": 60000, "north": 0}) + rng.normal(0, 4000, n)

model = make_pipeline(
    ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["area", "rooms", "year"]),
            ("district", OneHotEncoder(handle_unknown="ignore"), ["district"]),
        ]
    ),
    LinearRegression(),
)
model.fit(X[:300], y[:300])
tandem.publish(model, name="houses", sample=X[:20], held_out=(X[300:], y[300:]))
