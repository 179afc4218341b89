"""`python -m flows.cli` is `cm3`."""

from flows.cli import main

main()
