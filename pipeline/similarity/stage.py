"""The similarity stage: feature tables in, one published table of neighbours out."""

from collections.abc import Mapping
from typing import Any

from pipeline.cluster import Cluster
from pipeline.published import Published
from pipeline.similarity import feature_weights, incremental
from pipeline.similarity.layout import assemble, read
from pipeline.similarity.neighbours import nearest, rows
from pipeline.similarity.on_cluster import Elsewhere
from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion, canonical_json
from schemas.similarity import SimilarityConfig, Weighting

STAGE_VERSION = 2


def run(
    *,
    store: Store,
    features: Mapping[str, TableVersion],
    config: SimilarityConfig,
    interactions: TableVersion | None = None,
    cluster: Cluster | None = None,
) -> Published:
    """Publish each item's neighbours: the union of its k nearest by each feature and by the fused similarity.

    Args:
        features: name → version of `features/<name>`, all of one data set.
        interactions: needed where the weights are learned; not read otherwise.
        cluster: whose workers compare the items; they read the features from the store. The graph is the same.

    Raises:
        UserError: there is no feature, the weights name others than the features, or nothing to learn them from; the
            cluster was lost, or does not reach the store.
    """
    lineage = describe(features, config, interactions)
    given = feature_weights.fixed(config, features)
    if (published := store.find(lineage)) is not None:
        return Published({"similarity": published})
    raw = {name: read(store, features[name]) for name in sorted(features)}
    if config.weighting is Weighting.LEARNED:
        assert interactions is not None
        given = feature_weights.learned(assemble(raw, given), store.read(interactions, ["user_id", "item_id", "split"]))
    base = incremental.find_base(store, lineage, raw, given, config)
    elsewhere = Elsewhere(cluster, store, features, given) if cluster else None
    catalogue, edges, measured = nearest(raw, given, config, base, elsewhere)
    described = MeasuredLineage(**lineage.model_dump(), measured=measured | {"weights": given})
    with store.writer(tables.similarity(tuple(raw)), described) as writer:
        del raw
        for part in rows(catalogue, edges, config):
            writer.write(part)
    return Published({"similarity": writer.version})


class MeasuredLineage(Lineage):
    """A lineage with what the run found out (weights, recall): `cm3.measured` of the file, no part of the key."""

    measured: dict[str, Any]

    def key(self) -> str:
        return Lineage(**self.model_dump(exclude={"measured"})).key()

    def metadata(self, created: str) -> dict[str, str]:
        return super().metadata(created) | {"cm3.measured": canonical_json(self.measured)}


def describe(
    features: Mapping[str, TableVersion], config: SimilarityConfig, interactions: TableVersion | None = None
) -> Lineage:
    """What determines the table: the features' content, the configuration and, where they teach, the interactions.

    Raises:
        UserError: there is no feature, or weights are to be learned without interactions.
    """
    if not features:
        raise UserError("The similarity graph needs at least one feature table; found none. Name one in `features`.")
    inputs = {f"features/{name}": version.version for name, version in features.items()}
    if config.weighting is Weighting.LEARNED:
        if interactions is None:
            raise UserError(
                "similarity.weighting is 'learned', but no interactions were given; give the interactions table, or "
                "set weighting to 'fixed'."
            )
        inputs["interactions"] = interactions.version
    return Lineage(
        dataset=next(iter(features.values())).dataset,
        table="similarity",
        stage="similarity",
        stage_version=STAGE_VERSION,
        config=config.model_dump(mode="json"),
        inputs=inputs,
    )
