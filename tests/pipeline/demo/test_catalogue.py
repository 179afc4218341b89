"""The drawn catalogue: reproducible, defective where it says so, and worth learning from."""

import csv
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.demo import catalogue, drawing
from pipeline.demo.catalogue import Attributes
from schemas.demo import DemoConfig

SMALL = DemoConfig(items=60, users=40, picture_size=64)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    catalogue.write(folder, SMALL)
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_equal_configs_give_equal_bytes_even_over_an_older_catalogue(written: Path, tmp_path: Path) -> None:
    catalogue.write(tmp_path, SMALL.model_copy(update={"seed": 99}))
    catalogue.write(tmp_path, SMALL)
    assert contents(tmp_path) == contents(written)


def test_another_seed_gives_another_catalogue(written: Path, tmp_path: Path) -> None:
    catalogue.write(tmp_path, SMALL.model_copy(update={"seed": 8}))
    assert contents(tmp_path) != contents(written)


def test_the_catalogue_holds_each_defect(written: Path) -> None:
    items = rows(written)
    counts = Counter(row["id"] for row in items)
    assert counts[None] == 1
    assert sum(n == 2 for key, n in counts.items() if key) == 1
    assert any("<script>" in row["title"] for row in items)
    assert any(row["image"] is None for row in items)
    assert any(row["description"] is None for row in items)
    distinct = {row["id"]: row["image"] for row in items if row["id"] and row["image"]}
    assert max(Counter(distinct.values()).values()) == 2
    outcomes = Counter(_open(written / image) for image in set(distinct.values()))
    assert outcomes == {"ok": len(set(distinct.values())) - 3, "truncated": 1, "not an image": 1, "missing": 1}


def test_the_choices_hold_an_unknown_item_and_a_repeated_choice(written: Path) -> None:
    ids = {row["id"] for row in rows(written)}
    with (written / "interactions.csv").open(encoding="utf-8") as file:
        choices = list(csv.DictReader(file))
    assert sum(choice["item_id"] not in ids for choice in choices) == 1
    assert max(Counter((c["user_id"], c["item_id"]) for c in choices).values()) == 2
    assert {int(c["rating"]) for c in choices} <= {1, 2, 3, 4, 5}


def test_titles_often_leave_out_what_the_picture_shows(written: Path) -> None:
    titles = [row["title"].lower() for row in rows(written)]
    colours = "red|orange|yellow|green|blue|purple|pink|black|crimson|tangerine|mustard|emerald|violet|rose|charcoal"
    silent = sum(not re.search(colours, title) for title in titles) / len(titles)
    assert 0.4 < silent < 0.8


def test_a_taste_is_better_followed_by_words_and_pictures_together_than_by_either_or_by_popularity() -> None:
    from pipeline.demo import tastes

    config = DemoConfig(users=200)
    products = catalogue._assortment(config)
    choices = tastes.choose(products, config)
    by_user: dict[str, list[int]] = {}
    for user, item, *_ in choices:
        by_user.setdefault(user, []).append(int(item[1:]) - 1)
    seen = np.zeros((len(by_user), len(products)))
    for row, items in enumerate(by_user.values()):
        seen[row, items[:-1]] = 1
    held_out = [items[-1] for items in by_user.values()]

    def hits(traits: tuple[str, ...]) -> float:
        columns = [
            [float(getattr(p, trait) == option) for p in products]
            for trait in traits
            for option in sorted({getattr(p, trait) for p in products})
        ]
        content = np.array(columns).T
        return _hit_rate((seen @ content) @ content.T, seen, held_out)

    both = hits(("kind", "colour", "pattern", "brand"))
    words, pictures = hits(("kind", "brand")), hits(("kind", "colour", "pattern"))
    popularity = _hit_rate(np.repeat(seen.sum(0)[None], len(seen), 0), seen, held_out)
    assert both > 1.1 * max(words, pictures)
    assert min(words, pictures) > 1.5 * popularity


@pytest.mark.parametrize("kind", list(drawing.KINDS))
def test_every_kind_shows_its_colour_in_the_middle_of_the_picture(kind: str) -> None:
    for colour in ("red", "blue"):
        picture = catalogue.draw(Attributes(kind, colour, "plain", "Tidewater", 0.9), seed=1, side=96)
        pixels = np.asarray(picture, dtype=float).reshape(-1, 3)
        near = np.abs(pixels - np.array(drawing.COLOURS[colour])).sum(1) < 90
        assert picture.size == (96, 96)
        assert near.mean() > 0.04


def test_captions_name_what_is_drawn() -> None:
    assert catalogue.true_caption(Attributes("mug", "red", "striped", "x", 0.8)) == "a red striped mug"
    assert catalogue.true_caption(Attributes("bag", "orange", "dotted", "x", 0.8)) == "an orange dotted bag"
    assert catalogue.true_caption(Attributes("cap", "orange", "plain", "x", 0.8)) == "a plain orange cap"


def test_the_same_product_looks_different_under_another_seed_and_the_same_under_its_own() -> None:
    product = catalogue.attributes(random.Random(0))
    first, again, other = (catalogue.draw(product, seed, 64).tobytes() for seed in (1, 1, 2))
    assert first == again != other


def _open(path: Path) -> str:
    try:
        Image.open(path).load()
    except FileNotFoundError:
        return "missing"
    except UnidentifiedImageError:
        return "not an image"
    except OSError:
        return "truncated"
    return "ok"


def _hit_rate(scores: np.ndarray, seen: np.ndarray, held_out: list[int], k: int = 20) -> float:
    noise: Callable[..., Any] = np.random.default_rng(0).random
    ranked = np.argsort(-(scores + 1e-6 * noise(scores.shape)) + 1e9 * seen, axis=1)[:, :k]
    return float(np.mean([item in row for item, row in zip(held_out, ranked, strict=True)]))
