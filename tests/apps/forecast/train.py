"""Train the forecast and publish it."""

import numpy as np
import pandas as pd
import xgboost

import tandem

rng = np.random.default_rng(1)
n = 600
X = pd.DataFrame(
    {
        "weekday": rng.integers(0, 7, n).astype(float),
        "month": rng.integers(1, 13, n).astype(float),
        "last_week": rng.uniform(50, 200, n),
    }
)
y = X.last_week * np.where(X.weekday < 5, 1.1, 0.6) + 3 * X.month + rng.normal(0, 2, n)
model = xgboost.XGBRegressor(n_estimators=60, max_depth=4).fit(X[:450], y[:450])
tandem.publish(model, name="forecast", sample=X[:20], held_out=(X[450:], y[450:]))
