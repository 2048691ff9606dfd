"""All tests: signals are heeded, also where a shell started them in the background."""

from tandem.dagster.signals import heed_sigterm

# Before anything imports Dagster: what the tests start would ignore SIGTERM with it.
heed_sigterm()
