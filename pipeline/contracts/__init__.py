"""Whether published tables keep their contracts: judged before they become the latest."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.contracts.verdicts import judge

__all__ = ["judge"]


def __getattr__(name: str) -> object:
    """`judge`, imported when it is first used: see the docstring of `pipeline`."""
    if name in __all__:
        from pipeline.contracts import verdicts

        return verdicts.judge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
