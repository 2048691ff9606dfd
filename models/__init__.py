"""Training code, one package an application."""
