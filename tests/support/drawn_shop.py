"""A shop's two files: things bought often, once and never."""

import json
from pathlib import Path
from typing import Any

from tests.support.small_demo import FEW

WORDS = ("lamp", "chair", "rope", "kettle", "scarf", "drum", "clock", "boot")
OFTEN, ONCE, NEVER = 100, 50, 50
USERS = 60
QUICK = {"max_epochs": 1, "dim": 8, "device": "cpu", "item_weights": FEW.model_dump()}
"""A trainer's configuration for tests that are not about its figures."""


def write(folder: Path) -> None:
    """items.jsonl with 200 items, i000 to i199: the first 100 bought often, the next 50 once, the last 50 never; and
    interactions.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = [f"i{number:03d}" for number in range(OFTEN + ONCE + NEVER)]
    items = [{"item_id": id_, "title": f"A {WORDS[n % 8]} of the {n}th kind"} for n, id_ in enumerate(ids)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    pairs = [(user, ids[(17 * user + 3 * nth) % OFTEN]) for user in range(USERS) for nth in range(20)]
    pairs += [(number % USERS, item) for number, item in enumerate(ids[OFTEN : OFTEN + ONCE])]
    rows = [f"u{user:02d},{item},{second}" for second, (user, item) in enumerate(pairs, 1_400_000_000)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")


def parameters(folder: Path, store: Path, **changes: Any) -> dict[str, Any]:
    """Fields of a run on that shop, of any flow."""
    fields = {"raw": str(folder), "name": "shop", "store": str(store), "models": "offline", "features": ("sentence",)}
    return fields | changes
