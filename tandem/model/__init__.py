"""One model version, from an estimator to the verdict on it."""
