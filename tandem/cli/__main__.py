"""`python -m tandem.cli`: as the `tandem` command."""

from tandem.cli import main

main()
