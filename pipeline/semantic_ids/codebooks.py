"""Codebooks of a feature: trained once, published, and used again until another generation is asked for."""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.features.columns import fixed_width_from
from pipeline.machine import threads, use_threads
from pipeline.similarity.vectors import Floats, usable
from pipeline.store import Store
from schemas.errors import UserError
from schemas.lineage import Lineage, TableVersion
from schemas.semantic_ids import SemanticIdsConfig, semantic_codebooks

logger = logging.getLogger(__name__)

STAGE_VERSION = 1
READ_ROWS = 8192
TRAINING_PER_CODE = 64
"""Vectors per code that training reads at most, drawn at random: its memory does not grow with the catalogue."""
SEED = 0
IMPORTED = "imported:"
"""How the encoder of vectors begins that were not extracted here."""


def table(feature: TableVersion) -> str:
    """Name of the table that holds a feature's codebooks."""
    return f"semantic_codebooks/{feature.table.removeprefix('features/')}"


def published(store: Store, feature: TableVersion, config: SemanticIdsConfig) -> TableVersion:
    """The latest codebooks, if they are of this feature's encoder, size and generation; else those trained now.

    A file of imported vectors may grow, and an endpoint may leave contents unanswered: the encoder is the same.

    Raises:
        UserError: the feature has fewer vectors than its codebooks would have.
    """
    lineage = _describe(feature, config)
    ours, held = lineage.metadata(""), latest(store, feature.dataset, lineage.table)
    if (
        held is not None
        and _identity(held.lineage) == _identity(ours)
        and _width(store, held, "centroid") == _width(store, feature, "embedding")
    ):
        return store.again(held)
    if (version := store.find(lineage)) is not None:
        return version
    use_threads()
    vectors = sample(store, feature, TRAINING_PER_CODE << config.bits)
    if len(vectors) < (needed := config.levels << config.bits):
        raise UserError(
            f"{feature.dataset}/{feature.table} has {len(vectors):,} vectors, fewer than its codebooks would have: "
            f"{needed:,}. Lower semantic_ids.bits (now {config.bits}) or semantic_ids.levels (now {config.levels})."
        )
    quantizer = _quantizer(vectors.shape[1], config)
    faiss.omp_set_num_threads(threads())
    quantizer.train(vectors)
    centroids = faiss.vector_to_array(quantizer.codebooks).reshape(-1, vectors.shape[1])
    level, code = np.divmod(np.arange(len(centroids), dtype=np.int32), np.int32(1 << config.bits))
    schema = semantic_codebooks(vectors.shape[1])
    with store.writer(schema, lineage) as writer:
        writer.write(pa.table([pa.array(level), pa.array(code), fixed_width_from(centroids)], schema=schema))
    return writer.version


def latest(store: Store, dataset: str, table: str) -> TableVersion | None:
    """The latest version of a table; None if there never was one, or it is gone, which changes ids."""
    if not store.has_latest(dataset, table):
        return None
    try:
        return store.latest(dataset, table)
    except UserError as error:
        logger.warning("semantic ids are given anew: the last version of %s is gone (%s)", table, error)
        return None


def read(store: Store, version: TableVersion, config: SemanticIdsConfig) -> faiss.ResidualQuantizer:
    """The quantizer that published codebooks make."""
    rows = store.read(version, ["centroid"])["centroid"].combine_chunks()
    quantizer = _quantizer(rows.type.list_size, config)
    faiss.copy_array_to_vector(rows.flatten().to_numpy(), quantizer.codebooks)
    quantizer.is_trained = True
    return quantizer


def codes(quantizer: faiss.ResidualQuantizer, vectors: Floats) -> NDArray[np.int32]:
    """(n, levels) codes of (n, dim) vectors."""
    faiss.omp_set_num_threads(threads())
    bits = faiss.vector_to_array(quantizer.nbits)
    unpacked: NDArray[np.int32] = faiss.unpack_bitstrings(quantizer.compute_codes(vectors), bits)
    return unpacked


def batches(store: Store, feature: TableVersion) -> Iterator[tuple[pa.Array, Floats, NDArray[np.bool_]]]:
    """Ids, vectors and which of them can be coded, batch by batch."""
    for batch in store.batches(feature, ["item_id", "embedding"], rows=READ_ROWS):
        embeddings = batch["embedding"].combine_chunks()
        rows = np.zeros((len(embeddings), embeddings.type.list_size), np.float32)
        present = embeddings.is_valid().to_numpy(zero_copy_only=False)
        rows[present] = embeddings.flatten().to_numpy().reshape(-1, rows.shape[1])
        yield batch["item_id"].combine_chunks(), rows, usable(rows)


def sample(store: Store, feature: TableVersion, most: int) -> Floats:
    """At most `most` of the feature's vectors, the same ones whenever it is called."""
    rows = np.arange(feature.rows)
    if feature.rows > most:
        rows = np.sort(np.random.default_rng(SEED).choice(feature.rows, most, replace=False))
    parts, start = [], 0
    for _, vectors, present in batches(store, feature):
        chosen = rows[(rows >= start) & (rows < start + len(vectors))] - start
        parts.append(vectors[chosen[present[chosen]]])
        start += len(vectors)
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def _quantizer(dim: int, config: SemanticIdsConfig) -> faiss.ResidualQuantizer:
    quantizer = faiss.ResidualQuantizer(dim, config.levels, config.bits)
    # The default begins with a principal component analysis, which needs as many vectors as they have numbers.
    quantizer.train_type = faiss.ResidualQuantizer.Train_refine_codebook
    quantizer.cp.seed = SEED
    quantizer.cp.min_points_per_centroid = 1  # faiss warns on standard error below it
    quantizer.cp.max_points_per_centroid = TRAINING_PER_CODE
    return quantizer


def _identity(lineage: Mapping[str, str]) -> tuple[Any, ...]:
    """What published codebooks have in common with those that would be trained now, if they are used again."""
    config = json.loads(lineage["cm3.config"])
    name, revision, encoder = lineage["cm3.encoder"], lineage["cm3.revision"], dict(config["encoder"])
    encoder.pop("unanswered", None)
    if name.startswith(IMPORTED):  # hashes of the files, which one more vector changes
        revision = ""
        for file in ("path", "ids"):
            encoder.pop(file, None)
    return lineage["cm3.stage_version"], name, revision, config | {"encoder": encoder}


def _width(store: Store, version: TableVersion, column: str) -> int | None:
    """Numbers in a vector of a table; None if it has no rows."""
    first = next(iter(store.batches(version, [column], rows=1)), None)
    return None if first is None else first.schema.field(column).type.list_size


def _describe(feature: TableVersion, config: SemanticIdsConfig) -> Lineage:
    encoder: dict[str, Any] = json.loads(feature.lineage["cm3.config"])
    return Lineage(
        dataset=feature.dataset,
        table=table(feature),
        stage="semantic_ids",
        stage_version=STAGE_VERSION,
        config=config.model_dump(mode="json", exclude={"features"}) | {"encoder": encoder},
        inputs={feature.table: feature.version},
        encoder=feature.lineage["cm3.encoder"],
        revision=feature.lineage["cm3.revision"],
    )
