"""The command `cm3`, and what it says where it cannot run: without its packages, or on Windows."""

import sys
from importlib.util import find_spec
from typing import NoReturn

from schemas.errors import UserError


def main() -> None:
    """Entry point. The tables' contract alone (`import schemas`) needs none of the packages that this needs."""
    try:
        import pipeline  # noqa: F401 - before packages that Windows may lack: it refuses Windows in words
        from flows.cli import main as run
    except UserError as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        _name_extra(error, "serve" if sys.argv[1:2] == ["serve"] else "run")
    try:
        run()
    except ModuleNotFoundError as error:
        if find_spec("torch"):  # only the extra `run` has it, so that nothing of `run` is missing
            raise
        _name_extra(error, "run")


def _name_extra(error: ModuleNotFoundError, extra: str) -> NoReturn:
    command = " ".join(["cm3", *(word for word in sys.argv[1:2] if not word.startswith("-"))])
    missing = f"{command} needs packages that are not installed (no {error.name})"
    sys.exit(f"error: {missing}: pip install 'cm3-features[{extra}]'")
