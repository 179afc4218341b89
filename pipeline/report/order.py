"""The order of tables, for readers. It needs no library, so that `cm3 serve` installs little."""

TABLES = (
    "items",
    "interactions",
    "quality",
    "images",
    "gallery",
    "captions",
    "similarity",
    "embeddings/items",
    "embeddings/users",
    "item_weights",
    "recommendations",
    "metrics",
    "epochs",
    "model",
)
"""In the order the data flows."""


def in_order(names: set[str]) -> list[str]:
    """Table names in the order the data flows, features between captions and similarity."""
    place = {name: number for number, name in enumerate(TABLES)}
    return sorted(names, key=lambda name: (place.get(name, place["captions"]), name))
