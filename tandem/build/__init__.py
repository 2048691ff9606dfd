"""One commit, tested, as an app image."""
