"""A drawn catalogue of products, and the choices of users with planted tastes, with defects as in real catalogues.

Neither text nor pictures tell everything: most titles leave out the colour or the pattern, which the picture shows; the
brand, which every user's taste depends on too, is only in the text.
"""

import csv
import hashlib
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.demo import defects, drawing, tastes, words
from pipeline.demo.products import Attributes, item_id
from schemas.demo import DemoConfig

__all__ = ["Attributes", "attributes", "draw", "item_id", "true_caption", "write"]


def attributes(random_: random.Random) -> Attributes:
    """A random product of those that the demo can draw."""
    return Attributes(
        kind=random_.choice(list(drawing.KINDS)),
        colour=random_.choice(list(drawing.COLOURS)),
        pattern=random_.choice(drawing.PATTERNS),
        brand=random_.choice(list(words.BRANDS)),
        scale=random_.uniform(0.68, 0.96),
    )


def draw(product: Attributes, seed: int, side: int = 192) -> Image.Image:
    """The product's picture: RGB, `side` x `side` pixels; `seed` decides light, rotation, position and background."""
    random_ = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return drawing.picture(product.kind, product.colour, product.pattern, product.scale, random_, side)


def true_caption(product: Attributes) -> str:
    """What the picture shows, in the words a captioner is trained on, e.g. "a red striped mug"."""
    looks = f"plain {product.colour}" if product.pattern == "plain" else f"{product.colour} {product.pattern}"
    return f"{'an' if looks[0] in 'aeiou' else 'a'} {looks} {product.kind}"


def write(folder: Path, config: DemoConfig) -> None:
    """Write `items.jsonl`, `interactions.csv` and `images/*.jpg`, byte for byte the same for equal configs.

    A line of `items.jsonl` has id, title, description, brand, categories, price and image, the last relative to the
    folder; all except categories may be null. `interactions.csv` has user_id, item_id, rating (1 to 5) and timestamp
    (seconds since 1970, UTC). See `defects` for what is wrong with them on purpose.
    """
    products = _assortment(config)
    choices = tastes.choose(products, config)
    rows = [_row(number, product, config) for number, product in enumerate(products)]
    pictures = {row["image"]: _jpeg_seed(config.seed, number) for number, row in enumerate(rows) if row["image"]}
    broken = defects.plant(rows, choices, config)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "images").glob("D*.jpg"):
        stale.unlink()
    for number, row in enumerate(rows[: len(products)]):
        own = f"images/{item_id(number)}.jpg"
        if row["image"] == own and own in pictures:
            draw(products[number], pictures[own], config.picture_size).save(folder / own, quality=config.jpeg_quality)
    broken.damage(folder)
    with (folder / "items.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with (folder / "interactions.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["user_id", "item_id", "rating", "timestamp"])
        out.writerows(choices)


def _assortment(config: DemoConfig) -> list[Attributes]:
    """`config.items` products, no two alike in kind, colour and pattern."""
    random_ = random.Random(f"assortment {config.seed}")  # noqa: S311 - reproducible, not secret
    every = [(k, c, p) for k in drawing.KINDS for c in drawing.COLOURS for p in drawing.PATTERNS]
    chosen = random_.sample(every, config.items)
    return [Attributes(*looks, random_.choice(list(words.BRANDS)), random_.uniform(0.68, 0.96)) for looks in chosen]


def _row(number: int, product: Attributes, config: DemoConfig) -> dict[str, Any]:
    """One line of `items.jsonl`, from its own random generator, so that no item depends on the others' draws."""
    random_ = random.Random(f"words {config.seed} {number}")  # noqa: S311 - reproducible, not secret
    branded = random_.random() >= config.brand_absent
    described = random_.random() >= config.description_absent
    priced = random_.random() >= config.price_absent
    pictured = random_.random() >= config.picture_absent
    look = (product.kind, product.colour, product.pattern)
    return {
        "id": item_id(number),
        "title": words.title(*look, random_, config),
        "description": words.description(product.kind, product.pattern, product.brand, random_) if described else None,
        "brand": product.brand if branded else None,
        "categories": words.CATEGORIES[product.kind],
        "price": words.price(product.kind, random_) if priced else None,
        "image": f"images/{item_id(number)}.jpg" if pictured else None,
    }


def _jpeg_seed(seed: int, number: int) -> int:
    """The seed of an item's picture; large, so that no picture is one that the captioner was trained on."""
    return int.from_bytes(hashlib.sha256(f"picture {seed} {number}".encode()).digest()[:8])
