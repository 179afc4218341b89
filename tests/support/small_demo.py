"""A demo that takes seconds, for tests that are about a run and not about its figures."""

from pathlib import Path

from schemas.demo import DemoConfig
from schemas.run import DemoParameters
from schemas.training import CM3Config

SMALL = DemoConfig(items=60, users=150)
QUICK = CM3Config(max_epochs=3)


def small_demo(store: Path | str, **changes: object) -> DemoParameters:
    """Parameters of the small demo, with changes of some of its fields."""
    return DemoParameters(store=str(store), demo=SMALL, trainer=QUICK, **changes)  # type: ignore[arg-type]
