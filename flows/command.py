"""The command `cm3`, and what it says where it cannot run: without its packages, or on Windows."""

import sys

from schemas.errors import UserError


def main() -> None:
    """Entry point. The tables' contract alone (`import schemas`) needs none of the packages that this needs."""
    try:
        import pipeline  # noqa: F401 - before packages that Windows may lack: it refuses Windows in words
        from flows.cli import main as run
    except UserError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        missing = f"cm3 runs on packages that are not installed (no {error.name})"
        sys.exit(f"error: {missing}: pip install 'cm3-features[run]'")
    run()
