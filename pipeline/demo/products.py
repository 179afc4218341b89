"""What one product of the demo is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attributes:
    """A product's traits. `scale` is the drawn product's share of the picture's width, 0.5 to 1."""

    kind: str
    colour: str
    pattern: str
    brand: str
    scale: float


def item_id(number: int) -> str:
    """The id of product `number`, counted from 0."""
    return f"D{number + 1:04d}"
