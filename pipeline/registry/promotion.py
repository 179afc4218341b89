"""Whether a newly trained version becomes champion: what it is judged by, and the gate that it must pass."""

import hashlib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store import Store
from schemas.lineage import TableVersion
from schemas.registry import Measured, Registered, RegistryConfig

BATCH_ROWS = 65536


def choose(
    challenger: Measured,
    champion: Measured | None,
    config: RegistryConfig,
    best: Registered | None = None,
    *,
    same_training: bool = False,
) -> tuple[str, str]:
    """The alias and the reason: champion, unless it lost too much of the present champion's metric or coverage.

    Args:
        best: the best of the last champions. A version that loses too much of its metric is no champion either:
            otherwise small losses would add up from run to run.
        same_training: the champion comes from the same training, whose model was applied to newer items since. It has
            the same figures, so only items and coverage are compared.
    """
    if champion is None:
        return "champion", "no version is champion yet"
    if same_training:
        reason = f"the champion's model, validation NDCG@20 {champion.validation_ndcg:.4f}, applied to newer data"
        losses = _coverage_losses(challenger, champion, config)
        return ("challenger" if losses else "champion"), "; ".join([*losses, reason])
    losses = _metric_loss(challenger, champion, config)
    if best is not None and not losses and _metric_loss(challenger, best, config):
        share = 1 - challenger.validation_ndcg / best.validation_ndcg
        losses = [
            f"it loses {share:.1%} of the validation NDCG@20 of version {best.number}, {best.validation_ndcg:.4f}, the "
            f"best of the last {config.champions_compared} champions, where {config.max_metric_loss:.1%} is allowed"
        ]
    losses += _coverage_losses(challenger, champion, config)
    figures = (challenger.validation_ndcg, champion.validation_ndcg)
    compared = "validation NDCG@20 {:.4f} against the champion's {:.4f}".format(*figures)
    reason = "; ".join([*losses, compared, *_other_exam(challenger, champion)])
    return ("challenger" if losses else "champion"), reason


def coverage(store: Store, tables: Mapping[str, TableVersion]) -> dict[str, float]:
    """Feature name → share of items that have it."""
    features = "features/"
    return {
        name.removeprefix(features): covered(store, version)
        for name, version in tables.items()
        if name.startswith(features)
    }


def covered(store: Store, feature: TableVersion) -> float:
    """Share of the items of `features/<name>` that have the feature."""
    lacking = sum(batch["content_hash"].null_count for batch in store.batches(feature, ["content_hash"], BATCH_ROWS))
    return 1 - lacking / feature.rows if feature.rows else 0.0


def validation_set(store: Store, interactions: TableVersion) -> str:
    """Number of validation interactions and a digest of them; equal if two versions were judged on the same ones."""
    rows = total = 0
    for batch in store.batches(interactions, ["user_id", "item_id", "split"], BATCH_ROWS):
        held_out = batch.filter(pc.equal(batch["split"], "valid"))
        rows += len(held_out)
        for pair in zip(held_out["user_id"].to_pylist(), held_out["item_id"].to_pylist(), strict=True):
            # A sum, so that the order of the rows, which is the raw file's, does not matter.
            total += int.from_bytes(hashlib.sha256("\t".join(pair).encode()).digest())
    return f"{rows} {total % (1 << 64):016x}"


def _metric_loss(challenger: Measured, champion: Measured, config: RegistryConfig) -> list[str]:
    least = champion.validation_ndcg * (1 - config.max_metric_loss)
    if challenger.validation_ndcg >= least:  # false for NaN, which must not be promoted
        return []
    loss = 1 - challenger.validation_ndcg / champion.validation_ndcg
    return [f"it loses {loss:.1%} of validation NDCG@20, where {config.max_metric_loss:.1%} is allowed"]


def _coverage_losses(challenger: Measured, champion: Measured, config: RegistryConfig) -> list[str]:
    """Losses of items, and of items with a feature. A feature that only one version has was configured, not lost."""
    allowed = f"where {config.max_coverage_loss:.1%} is allowed"
    losses = []
    if (loss := 1 - challenger.items / champion.items) > config.max_coverage_loss:
        losses.append(f"it covers {loss:.1%} fewer items than the champion, {allowed}")
    for name, before in champion.coverage.items():
        now = challenger.coverage.get(name, before)
        if before > 0 and (loss := 1 - now / before) > config.max_coverage_loss:
            losses.append(f"{name} covers {now:.1%} of the items, {loss:.1%} less than the champion's, {allowed}")
    return losses


def _other_exam(challenger: Measured, champion: Measured) -> list[str]:
    ours, theirs = challenger.validation_set, champion.validation_set
    if not ours or not theirs or ours == theirs:
        return []
    sizes = [f"{int(exam.split()[0]):,}" for exam in (ours, theirs)]
    return [f"validation sets differ: {sizes[0]} interactions against the champion's {sizes[1]}"]


def value(metrics: pa.Table, model: str, split: str, metric: str, k: int) -> float:
    """Mean over seeds of one figure of the `metrics` table."""
    wanted = metrics.filter(
        (pc.field("model") == model)
        & (pc.field("split") == split)
        & (pc.field("metric") == metric)
        & (pc.field("k") == k)
    )
    if len(wanted) == 0:
        raise ValueError(f"no {metric}@{k} of {model!r} on {split!r} in the metrics table")
    return float(pc.mean(wanted["value"]).as_py())
