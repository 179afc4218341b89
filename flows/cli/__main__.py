"""`python -m flows.cli` is `cm3`."""

from flows.cli import main

if __name__ == "__main__":  # serving processes import this module again
    main()
