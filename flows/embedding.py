"""Apply a published model to today's tables: vectors for what came after its training, without training."""

import json
from collections.abc import Mapping

import pyarrow.compute as pc

from flows import training
from pipeline import never_shown
from pipeline.published import Published
from pipeline.store import Store
from schemas.lineage import Lineage, TableVersion
from schemas.model import MODEL

STAGE_VERSION = 1
OUTPUTS = ("embeddings/items", "embeddings/users", "item_weights", training.RECOMMENDATIONS)
"""The tables that this stage publishes."""
ADDED_TO = ("embeddings/items", "embeddings/users", "item_weights")
"""Tables of a training whose rows stay as they are."""
KEPT = (MODEL, "metrics", "epochs")
"""What a training published once and for all: it belongs to every version that its model makes."""


def run(
    *, store: Store, tables: Mapping[str, TableVersion], base: Mapping[str, TableVersion], device: str = "auto"
) -> Published:
    """Add rows for today's new items and users, and make the recommendations anew.

    A function of the model, the tables of its training, and today's: rows of items that came after training follow
    their interactions and neighbours from night to night, those of the training stay bit-equal until the next one.

    Args:
        tables: those of today that a training would read (`training.inputs`).
        base: the tables of a version, made by a training or by this stage.
        device: what the model is applied on; another one gives the same up to rounding.

    Returns: the four tables, and the base's model, metrics and epochs as they are. Where today's tables are those that
        `base` was made from, its own tables.
    Raises:
        UserError: the model or a table of its training is damaged or gone, or its features are not today's.
    """
    kept = {name: store.again(base[name]) for name in KEPT}
    trained = training_behind(store, base)
    read = {name: version.version for name, version in tables.items()}
    hidden = sorted(never_shown.read(store, base[MODEL].dataset))
    lineages = {table: _lineage(table, read, trained, hidden) for table in OUTPUTS}
    if {name: version for name, version in _inputs(base).items() if name not in trained} == read:
        made = {name: store.again(base[name]) for name in OUTPUTS}
        lists = lineages[training.RECOMMENDATIONS]
        if json.loads(made[lists.table].lineage["cm3.inputs"]).get("never_shown") != lists.inputs.get("never_shown"):
            version = store.find(lists)
            if version is None:
                todays = {MODEL: base[MODEL]} | made
                made |= training.apply(store, tables, todays, {lists.table: lists}, hidden, device)
            else:
                made[lists.table] = version
    else:
        made = {table: earlier for table in OUTPUTS if (earlier := store.find(lineages[table]))}
        if len(made) < len(OUTPUTS):
            for version in trained.values():
                store.verify(version)
            made = training.apply(store, tables, trained, lineages, hidden, device)
    return Published(made | kept, _counts(store, made, trained))


def _counts(store: Store, made: Mapping[str, TableVersion], trained: Mapping[str, TableVersion]) -> dict[str, float]:
    """Items and users that the training did not have."""
    counts: dict[str, float] = {}
    for name, column in (("items", "item_id"), ("users", "user_id")):
        now, then = (store.read(of[f"embeddings/{name}"], [column])[column] for of in (made, trained))
        counts[f"new_{name}"] = len(now) - pc.sum(pc.is_in(now, then)).as_py()
    return counts


def training_behind(store: Store, base: Mapping[str, TableVersion]) -> dict[str, TableVersion]:
    """The model and the tables of the training that a version's tables come from.

    Raises:
        UserError: garbage collection took one of them.
    """
    inputs, dataset = _inputs(base), base[MODEL].dataset
    return {MODEL: base[MODEL]} | {
        name: store.get(dataset, name, inputs[name]) if name in inputs else base[name] for name in ADDED_TO
    }


def _inputs(base: Mapping[str, TableVersion]) -> dict[str, str]:
    """What the embeddings of a version were made from: table name → version."""
    inputs: dict[str, str] = json.loads(base["embeddings/items"].lineage["cm3.inputs"])
    return inputs


def _lineage(table: str, read: Mapping[str, str], trained: Mapping[str, TableVersion], hidden: list[str]) -> Lineage:
    """The model's configuration, so that readers find the embeddings' parts as they do after a training."""
    model = trained[MODEL]
    return Lineage(
        dataset=model.dataset,
        table=table,
        stage="embed",
        stage_version=STAGE_VERSION,
        config=json.loads(model.lineage["cm3.config"]),
        inputs={
            **read,
            **{name: version.version for name, version in trained.items()},
            **training.never_shown_input(table, hidden),
        },
        encoder="cm3",
        revision=model.version,
    )
