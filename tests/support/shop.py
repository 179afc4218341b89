"""The tables of a training on a drawn shop, whose lists follow from a ranking written out for each pair."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline.store import Store
from schemas import tables as contract
from schemas.lineage import TableVersion
from tests.support.published import publish

TOP_K, GRAPH_K = 10, 3


@dataclass
class Shop:
    """Ids, and what decides the ranking."""

    seed: int
    users: list[str]
    items: list[str]
    of_users: np.ndarray
    of_items: np.ndarray
    weights: dict[tuple[str, str], float]
    """(item, chosen item) → weight."""
    chosen: dict[str, list[tuple[str, str]]]
    """User → (item, split)."""
    tables: dict[str, TableVersion] = field(default_factory=dict)

    def scores(self, user: str) -> dict[str, float]:
        """A user's score for every item."""
        vector = self.of_users[self.users.index(user)].astype(np.float64)
        return {
            item: float(vector @ row) + sum(self.weights.get((item, c), 0.0) for c, _ in self.chosen.get(user, ()))
            for item, row in zip(self.items, self.of_items.astype(np.float64), strict=True)
        }

    def ranking(self, user: str) -> list[str]:
        """Every item that the user has not chosen, the best first."""
        chosen = {item for item, _ in self.chosen.get(user, ())}
        scores = self.scores(user)
        return [item for item in sorted(scores, key=lambda item: -scores[item]) if item not in chosen]

    def because(self, user: str, item: str) -> list[str]:
        """The chosen items that weigh most in it."""
        said = [(self.weights.get((item, c), 0.0), c) for c, _ in self.chosen.get(user, ())]
        return [c for weight, c in sorted(said, key=lambda pair: (-pair[0], pair[1]))[:3] if weight > 0]


def draw(seed: int = 0, users: int = 30, items: int = 40, width: int = 4) -> Shop:
    """A shop; its last user chose everything, and every item has a few weights."""
    rng = np.random.default_rng(seed)
    of_users, of_items = (rng.normal(size=(n, width)).astype(np.float32) for n in (users, items))
    names = [f"i{n:03d}" for n in range(items)]
    members = [f"u{n:03d}" for n in range(users)]
    weights = {
        (names[i], names[c]): float(np.float32(rng.normal()))
        for i in range(items)
        for c in rng.choice(items, 5, replace=False)
        if i != c
    }
    chosen = {}
    for user in members:
        some = rng.choice(items, items if user == members[-1] else 6, replace=False)
        chosen[user] = [(names[i], ("valid", "test", "train")[min(n, 2)]) for n, i in enumerate(some)]
    return Shop(seed, members, names, of_users, of_items, weights, chosen)


def published(store: Store, shop: Shop, dataset: str = "shop") -> dict[str, TableVersion]:
    """Its tables, as a run publishes them."""
    lists = [
        {"user_id": u, "item_id": i, "rank": n, "score": shop.scores(u)[i], "because": shop.because(u, i) or None}
        for u in shop.users
        for n, i in enumerate(shop.ranking(u)[:TOP_K], 1)
    ]
    width = shop.of_items.shape[1]
    graph = contract.similarity(("clip",))
    near = [
        {"item_id": i, "neighbor_id": shop.items[(n + step) % len(shop.items)], "rank": step, "similarity": 1 / step}
        | {"similarity_clip": 1 / step if step < 2 else None}
        for n, i in enumerate(shop.items)
        for step in range(1, GRAPH_K + 2)  # one row beyond the graph's k, as for a neighbour by one feature
    ]
    rows = {
        "items": (contract.ITEMS, [{"item_id": i, "title": f"Title of {i}", "categories": []} for i in shop.items]),
        "interactions": (
            contract.INTERACTIONS,
            [{"user_id": u, "item_id": i, "split": split} for u, c in shop.chosen.items() for i, split in c],
        ),
        "similarity": (graph, near),
        "embeddings/items": (contract.item_embeddings(width), _vectors("item_id", shop.items, shop.of_items)),
        "embeddings/users": (contract.user_embeddings(width), _vectors("user_id", shop.users, shop.of_users)),
        "item_weights": (
            contract.ITEM_WEIGHTS,
            [{"item_id": i, "chosen_id": c, "weight": w} for (i, c), w in shop.weights.items()],
        ),
        "recommendations": (contract.RECOMMENDATIONS, lists),
        "metrics": (
            contract.METRICS,
            [
                {"model": "cm3", "seed": 0, "split": s, "metric": "ndcg", "k": 20, "value": 0.3, "users": 5}
                for s in ("valid", "test")
            ],
        ),
        "epochs": (contract.EPOCHS, [{"model": "cm3", "seed": 0, "epoch": 1, "metric": "loss", "value": 1.0}]),
    }
    training = {"top_k": TOP_K, "seed": shop.seed}
    return {
        name: publish(
            store,
            name,
            pa.Table.from_pylist(content, schema=schema),
            dataset=dataset,
            config={"k": GRAPH_K, "seed": shop.seed} if name == "similarity" else training,
        )
        for name, (schema, content) in rows.items()
    }


def _vectors(key: str, ids: list[str], rows: np.ndarray) -> list[dict[str, object]]:
    return [{key: name, "embedding": row.tolist()} for name, row in zip(ids, rows, strict=True)]
