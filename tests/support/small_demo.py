"""A demo that takes seconds, for tests that are about a run and not about its figures."""

from pathlib import Path

from schemas.demo import DemoConfig
from schemas.run import DemoParameters
from schemas.training import CM3Config, ItemWeightsConfig

SMALL = DemoConfig(items=60, users=150, picture_size=144)
"""Its pictures are drawn in little more than half the time of the default's, and larger than an atlas's thumbnails."""
FEW = ItemWeightsConfig(alphas=(1.0, 10.0), penalties=(100.0,), kept=(20, 50))
"""Of each choice few settings to try: trying all takes a fifth of a short training."""
QUICK = CM3Config(max_epochs=3)


def small_demo(store: Path | str, **changes: object) -> DemoParameters:
    """Parameters of the small demo, with changes of some of its fields."""
    return DemoParameters(store=str(store), demo=SMALL, trainer=QUICK, **changes)  # type: ignore[arg-type]
