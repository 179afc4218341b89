"""Small trainings' tables, and their registration."""

import pyarrow as pa

from pipeline import registry
from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.registry import Registered, RegistryConfig
from schemas.tables import EPOCHS, INTERACTIONS, METRICS, features, item_embeddings
from tests.support.published import publish


def trained(store: Store, *, seed: int, ndcg: float, items: int = 20) -> dict[str, TableVersion]:
    """Tables such as a training run leaves; equal arguments give equal versions."""
    row = {"model": "cm3", "seed": seed, "metric": "ndcg", "k": 20, "users": 5}
    metrics = [row | {"split": "valid", "value": ndcg}, row | {"split": "test", "value": ndcg / 2}]
    curve = [{"model": "cm3", "seed": seed, "epoch": e, "metric": "loss", "value": 1 / e} for e in (1, 2, 3)]
    vectors = [{"item_id": f"i{i}", "embedding": [float(i), 1.0]} for i in range(items)]
    held_out = [{"user_id": "u", "item_id": f"i{i}", "split": "valid"} for i in range(5 + seed // 2)]
    clip = [{"item_id": row["item_id"], "content_hash": "h", "embedding": [1.0]} for row in vectors]
    tables = {
        "interactions": pa.Table.from_pylist(held_out, schema=INTERACTIONS),
        "features/clip": pa.Table.from_pylist(clip, schema=features(1)),
        "embeddings/items": pa.Table.from_pylist(vectors, schema=item_embeddings(2)),
        "metrics": pa.Table.from_pylist(metrics, schema=METRICS),
        "epochs": pa.Table.from_pylist(curve, schema=EPOCHS),
    }
    return {name: publish(store, name, table, config={"seed": seed}) for name, table in tables.items()}


def register(store: Store, tables: dict[str, TableVersion], **config: object) -> Registered:
    """Register a training's tables under the gate of `config`."""
    return registry.run(store=store, tables=tables, parameters={"gamma": 0.5}, config=RegistryConfig(**config))
