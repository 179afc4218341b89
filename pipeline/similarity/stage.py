"""The similarity stage: feature tables in, one published table of neighbours out."""

from collections.abc import Mapping
from typing import Any

from pipeline.cluster import Cluster
from pipeline.published import Published
from pipeline.similarity import feature_weights, incremental, neighbours, on_cluster, partition
from pipeline.similarity.layout import assemble
from pipeline.similarity.vectors import read
from pipeline.store import Store
from schemas import tables
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion, canonical_json
from schemas.similarity import SimilarityConfig, Weighting

STAGE_VERSION = 3


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
        cluster: its workers compare the items; they read the features from the store. The graph stays the same.

    Raises:
        UserError: there is no feature, the weights do not name the features, or there are no interactions to learn them
            from; the cluster was lost, or does not reach the store.
    """
    lineage = describe(features, config, interactions)
    weights = feature_weights.fixed(config, features)
    if (version := store.find(lineage)) is not None:
        return Published({"similarity": version})
    vectors = {name: read(store, features[name]) for name in sorted(features)}
    if config.weighting is Weighting.LEARNED:
        assert interactions is not None
        choices = store.read(interactions, ["user_id", "item_id", "split"])
        weights = feature_weights.learned(assemble(vectors, weights), choices)
    base = incremental.find_base(store, lineage, vectors, weights, config)
    workers = on_cluster.ClusterSearch(cluster, store, features, weights) if cluster else None
    graph = neighbours.nearest(vectors, weights, config, base, workers)
    measured = graph.measured | {"weights": weights}
    if graph.partition is not None:
        measured["partition"] = partition.keep(store, graph.partition)
    described = MeasuredLineage(**lineage.model_dump(), measured=measured)
    with store.writer(tables.similarity(tuple(vectors)), described) as writer:
        del vectors
        for part in neighbours.rows(graph, config):
            writer.write(part)
    return Published({"similarity": writer.version})


class MeasuredLineage(Lineage):
    """A lineage with what the run measured (weights, recall): `cm3.measured` in the file, not part of the key."""

    measured: dict[str, Any]

    def key(self) -> str:
        return Lineage(**self.model_dump(exclude={"measured"})).key()

    def metadata(self, created: str) -> dict[str, str]:
        return super().metadata(created) | {"cm3.measured": canonical_json(self.measured)}


def describe(
    features: Mapping[str, TableVersion], config: SimilarityConfig, interactions: TableVersion | None = None
) -> Lineage:
    """What determines the table: the features' content, the configuration and, if they teach weights, the interactions.

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
