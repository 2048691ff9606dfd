"""This project's code location: which apps it releases."""
