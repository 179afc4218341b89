"""The tables of a run, made from the demo's drawings with stand-ins for encoders and trainer.

The report does not care how good vectors are, so words are hashed and pictures are shrunk; everything else is what the
stages would publish.
"""

import io
import random
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.demo import catalogue, drawing, tastes, words
from pipeline.similarity.stage import MeasuredLineage, describe
from pipeline.store import Store
from schemas import tables as contract
from schemas.demo import DemoConfig
from schemas.lineage import Lineage, TableVersion
from schemas.similarity import SimilarityConfig

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "{{ 7 * 7 }} {% raw %} ${7*7} 'quoted' \"twice\" & <b>bold</b>",
    "Left \u202eright\u202c and \u2066isolated\u2069 <!--",
    "\u05d7\u05d5\u05dc\u05e6\u05d4 \u05d0\u05d3\u05d5\u05de\u05d4",
    "\ud55c\uae00 \U0001f600 tab\there line\nbreak nul\x00",
)
"""Titles that the first items get on demand."""

MEASURED = {"exact": False, "recall": {"clip": 0.981, "fused": 0.975}, "clusters": 1000, "compared": 9}
"""What the graph says of itself, as if it were an approximate one."""


def publish(
    store: Store, *, items: int = 60, users: int = 40, side: int = 64, hostile: bool = False, seed: int = 7,
    seeds: Sequence[int] = (0, 1, 2), epochs: int = 12,
) -> dict[str, TableVersion]:  # fmt: skip
    """Every table of a run of `items` drawn products."""
    config = DemoConfig(items=max(40, items), users=users, seed=seed)
    products = catalogue._assortment(config)[:items]
    rows = [catalogue._row(number, product, config) for number, product in enumerate(products)]
    if hostile:
        for row, title in zip(rows, HOSTILE, strict=False):
            row.update(title=title, brand=title, description=title, categories=[title, *row["categories"]])
    known = {row["id"] for row in rows}
    choices = [row for row in tastes.choose(products, config) if row[1] in known]
    pictures = _pictures(products, rows, side)
    vectors = {
        "clip": {item: np.asarray(p.resize((12, 12)), float).ravel() / 255 - 0.5 for item, p in pictures.items()},
        "sentence": {
            row["id"]: _hashed(f"{row['title']} {row['description'] or ''} {row['brand'] or ''}") for row in rows
        },
    }
    vectors["caption"] = {i: _hashed(catalogue.true_caption(products[int(i[1:]) - 1])) for i in pictures}
    publishing = _Publishing(store, str((items, users, side, hostile, seed, tuple(seeds), epochs)))
    found = {"items": publishing.items(rows), "interactions": publishing.interactions(choices)}
    found["quality"] = publishing.quality(hostile)
    found["images"] = publishing.images(rows, pictures)
    found["captions"] = publishing.captions(products, rows, pictures, hostile)
    for name, table in vectors.items():
        found[f"features/{name}"] = publishing.features(name, rows, table)
    found["similarity"] = publishing.similarity(rows, vectors, found)
    trained = _trained(products)
    found["embeddings/items"] = publishing.embeddings(rows, trained)
    found["recommendations"] = publishing.recommendations(choices, rows, trained)
    found["metrics"] = publishing.metrics(seeds)
    found["epochs"] = publishing.epochs(seeds[0], epochs)
    return found


class _Publishing:
    def __init__(self, store: Store, salt: str) -> None:
        self.store, self.salt = store, salt

    def put(
        self, table: str, schema: pa.Schema, rows: Any, encoder: str = "", lineage: Lineage | None = None
    ) -> TableVersion:
        lineage = lineage or Lineage(
            dataset="demo", table=table, stage=table.split("/")[0], stage_version=1, config={"salt": self.salt},
            encoder=encoder,
        )  # fmt: skip
        with self.store.writer(schema, lineage) as out:
            out.write(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=schema))
        assert out.version is not None
        return out.version

    def items(self, rows: list[dict[str, Any]]) -> TableVersion:
        return self.put("items", contract.ITEMS, [
            {"item_id": r["id"], **{c: r[c] for c in ("title", "description", "brand", "categories", "price")},
             "image_url": r["image"] and f"http://127.0.0.1:8000/{r['image']}",
             "text": " ".join(filter(None, (r["title"], r["description"], r["brand"])))}
            for r in rows
        ])  # fmt: skip

    def interactions(self, choices: list[list[Any]]) -> TableVersion:
        by_user: dict[str, list[list[Any]]] = {}
        for choice in choices:
            by_user.setdefault(choice[0], []).append(choice)
        rows = []
        for chosen in by_user.values():
            for place, (user, item, rating, moment) in enumerate(chosen):
                split = "test" if place == len(chosen) - 1 else "valid" if place == len(chosen) - 2 else "train"
                when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment)
                rows.append({"user_id": user, "item_id": item, "rating": rating, "timestamp": when, "split": split})
        return self.put("interactions", contract.INTERACTIONS, rows)

    def quality(self, hostile: bool) -> TableVersion:
        bad = [HOSTILE[0], HOSTILE[3]] if hostile else ["U0001"]
        items, choices = "items.jsonl", "interactions.csv"
        rules = [
            (items, "duplicate_item", "dropped", 1, ["D0020"]),
            (items, "no_item_id", "dropped", 1, []),
            (items, "markup_in_title", "repaired", 1, ["D0031"]),
            (choices, "unknown_item", "dropped", 1, bad),
            (choices, "five_core", "dropped", 1234, ["U0003", "U0017"]),
        ]
        return self.put(
            "quality", contract.QUALITY, [dict(zip(contract.QUALITY.names, rule, strict=True)) for rule in rules]
        )

    def images(self, rows: list[dict[str, Any]], pictures: dict[str, Any]) -> TableVersion:
        found = []
        for number, row in enumerate(rows):
            url, data = row["image"] and f"http://127.0.0.1:8000/{row['image']}", None
            status, error = ("ok", None) if row["id"] in pictures else ("no_url", None)
            if row["id"] in pictures and number % 17 == 5:
                status, error = "not_found", "404"
            elif row["id"] in pictures:
                buffer = io.BytesIO()
                pictures[row["id"]].save(buffer, "JPEG", quality=88)
                data = buffer.getvalue()
            sha256 = str(zlib.crc32(data)) if data else None
            values = (row["id"], url, status, error, None, None, sha256, data)
            found.append(dict(zip(contract.IMAGES.names, values, strict=True)))
        return self.put("images", contract.IMAGES, found)

    def captions(
        self, products: list[Any], rows: list[dict[str, Any]], pictures: dict[str, Any], hostile: bool
    ) -> TableVersion:
        found = []
        for number, row in enumerate(rows):
            has = row["id"] in pictures
            caption = catalogue.true_caption(products[number]) if has else None
            if hostile and has and number < 6:
                caption = HOSTILE[number % 4]
            status = "ok" if has else "no_image"
            values = (row["id"], None, caption, status, "tiny", "1", "Describe the product.")
            found.append(dict(zip(contract.CAPTIONS.names, values, strict=True)))
        return self.put("captions", contract.CAPTIONS, found, encoder="demo captioner")

    def features(self, name: str, rows: list[dict[str, Any]], vectors: dict[str, Any]) -> TableVersion:
        dim = len(next(iter(vectors.values())))
        flat = np.stack([vectors.get(row["id"], np.zeros(dim)) for row in rows]).astype(np.float32).ravel()
        absent = pa.array([row["id"] not in vectors for row in rows])
        vector = contract.vector(dim)
        embedding = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=vector, mask=absent)
        ids = pa.array([row["id"] for row in rows])
        hashes = pa.array(["hash" if row["id"] in vectors else None for row in rows])
        table = pa.table([ids, hashes, embedding, pa.nulls(len(ids), pa.string())], schema=contract.features(dim))
        return self.put(f"features/{name}", contract.features(dim), table, encoder=f"stand-in for {name}")

    def similarity(
        self, rows: list[dict[str, Any]], vectors: dict[str, dict[str, Any]], found: dict[str, TableVersion]
    ) -> TableVersion:
        ids = [row["id"] for row in rows]
        cosines = []
        for table in vectors.values():
            dim = len(next(iter(table.values())))
            matrix = np.stack([table.get(item, np.zeros(dim)) for item in ids])
            unit = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
            cosines.append(unit @ unit.T)
        fused = np.mean(cosines, axis=0)
        np.fill_diagonal(fused, -2)
        edges = [
            {"item_id": ids[row], "neighbor_id": ids[column], "rank": rank, "similarity": fused[row, column]}
            | {f"similarity_{name}": cosines[n][row, column] for n, name in enumerate(vectors)}
            for row in range(len(ids))
            for rank, column in enumerate(np.argsort(-fused[row])[: min(10, len(ids) - 1)], 1)
        ]
        described = describe({name: found[f"features/{name}"] for name in vectors}, SimilarityConfig())
        lineage = MeasuredLineage(**described.model_dump(), measured=MEASURED)
        return self.put("similarity", contract.similarity(tuple(vectors)), edges, lineage=lineage)

    def embeddings(self, rows: list[dict[str, Any]], trained: NDArray[Any]) -> TableVersion:
        found = [{"item_id": r["id"], "embedding": v.tolist()} for r, v in zip(rows, trained, strict=True)]
        return self.put("embeddings/items", contract.item_embeddings(trained.shape[1]), found)

    def recommendations(
        self, choices: list[list[Any]], rows: list[dict[str, Any]], trained: NDArray[Any]
    ) -> TableVersion:
        place = {row["id"]: number for number, row in enumerate(rows)}
        by_user: dict[str, list[int]] = {}
        for user, item, *_ in choices:
            by_user.setdefault(user, []).append(place[item])
        found = []
        for user, chosen in by_user.items():
            scores = trained[chosen[:-2] or chosen].sum(0) @ trained.T
            scores[chosen[:-2]] = -np.inf
            for rank, item in enumerate(np.argsort(-scores)[:20], 1):
                found.append({"user_id": user, "item_id": rows[item]["id"], "rank": rank, "score": float(scores[item])})
        return self.put("recommendations", contract.RECOMMENDATIONS, found)

    def metrics(self, seeds: Sequence[int]) -> TableVersion:
        random_ = random.Random(1)
        found = []
        strength = {"cm3": 0.21, "lightgcn": 0.16, "popularity": 0.055}
        names = ["ndcg", "recall", "hr", "precision", "mrr", "map", "coverage"]
        names += [f"{m}_{g}" for m in ("recall", "ndcg") for g in ("train_0", "train_1_4", "train_5_19", "train_20_")]
        for model, level in strength.items():
            for seed in seeds:
                for split in ("valid", "test"):
                    for metric in names:
                        for k in (5, 10, 20, 50):
                            value = (
                                level * (k / 20) ** 0.4 * random_.uniform(0.9, 1.1) * (2 if metric == "recall" else 1)
                            )
                            users = 3 if metric.endswith("train_0") else 590
                            row = (model, seed, split, metric, k, value, users)
                            found.append(dict(zip(contract.METRICS.names, row, strict=True)))
        return self.put("metrics", contract.METRICS, found)

    def epochs(self, seed: int, epochs: int) -> TableVersion:
        found = []
        for epoch in range(1, epochs + 1):
            decay = np.exp(-epoch / 9)
            for metric, value in {
                "loss": 0.4 + 1.4 * decay, "alignment": 0.9 - 0.5 * decay, "uniformity": -3 + 2.6 * decay,
                "calibrated_uniformity": -2.4 + 2.1 * decay, "valid_ndcg@20": 0.21 * (1 - decay) - 0.0006 * epoch,
            }.items():  # fmt: skip
                found.append({"model": "cm3", "seed": seed, "epoch": epoch, "metric": metric, "value": float(value)})
        return self.put("epochs", contract.EPOCHS, found)


def _pictures(products: list[Any], rows: list[dict[str, Any]], side: int) -> dict[str, Any]:
    return {r["id"]: catalogue.draw(p, 1000 + n, side)
            for n, (p, r) in enumerate(zip(products, rows, strict=True)) if r["image"]}  # fmt: skip


def _hashed(text: str) -> NDArray[np.float64]:
    vector = np.zeros(48)
    for word in text.lower().split():
        vector += np.random.default_rng(zlib.crc32(word.encode())).normal(size=48)
    return vector


def _trained(products: list[Any]) -> NDArray[np.float64]:
    options = [list(o) for o in (drawing.KINDS, drawing.COLOURS, drawing.PATTERNS, words.BRANDS)]
    rows = []
    for product in products:
        traits = (product.kind, product.colour, product.pattern, product.brand)
        rows.append(np.concatenate([np.eye(len(o))[o.index(t)] for o, t in zip(options, traits, strict=True)]))
    return np.stack(rows) + np.random.default_rng(0).normal(scale=0.05, size=(len(rows), len(rows[0])))
