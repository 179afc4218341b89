"""The Python interface: run the job, read its tables, ask for recommendations and neighbours.

    import cm3

    cm3.run("demo", store="store", features=("sentence",))
    vectors = cm3.read("demo/embeddings/items@champion", store="store")
    lists = cm3.recommend("demo", ["U0001"], store="store")

`store` is a folder or s3://bucket/prefix; without it, the variable CM3_STORE, else the folder `store`. Tables are
pyarrow's, which polars, pandas and DuckDB take without a copy. Whatever a caller can mend is a `cm3.UserError`. The
packages behind each function are imported when it is called, so that `import cm3` costs next to nothing.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store import Store
    from schemas.extract import ExtractSummary
    from schemas.run import RunSummary

__all__ = ["UserError", "extract", "read", "recommend", "resolve", "run", "similar"]


def run(kind: str, *, store: str | Path | None = None, **parameters: Any) -> "RunSummary":
    """Run the main job in this process, as `cm3 run KIND`.

    Args:
        kind: the source: "demo", "catalogue", "amazon", "movielens", "microlens" or "mmrec".
        parameters: as in docs/reference/parameters.md; nested ones as mappings, e.g. `trainer={"max_epochs": 5}`.
    Returns: the record of the run, as `cm3 show` prints it.
    Raises: UserError: an unknown kind or parameter, or an input that the job refuses.
    """
    from flows import job
    from flows.parameters import validated
    from schemas.run import PARAMETERS

    return job.run(parameters=validated(_of(kind, PARAMETERS), {"store": _address(store), **parameters}))


def extract(kind: str, *, store: str | Path | None = None, **parameters: Any) -> "ExtractSummary":
    """Make features and similarity alone in this process, as `cm3 extract KIND`; arguments as those of `run`."""
    from flows import extract as flow
    from flows.parameters import validated
    from schemas.extract import PARAMETERS

    return flow.run(parameters=validated(_of(kind, PARAMETERS), {"store": _address(store), **parameters}))


def resolve(reference: str, *, store: str | Path | None = None) -> str:
    """The path or s3:// address of a table's folder of Parquet files, for a reader of one's own.

    Args:
        reference: DATASET/TABLE, with @VERSION, @ALIAS or @NUMBER behind it for another version than the latest.
    Raises: UserError: there is no such data set, table or version.
    """
    from pipeline.registry import versions

    return versions.resolve(_opened(store), reference).path


def read(reference: str, *, store: str | Path | None = None, columns: Sequence[str] | None = None) -> "pa.Table":
    """A table as a whole; `columns` names those that are needed.

    Args:
        reference: as for `resolve`.
    Raises: UserError: there is no such data set, table, version or column, or a file is damaged.
    """
    import pyarrow as pa

    from pipeline.registry import versions

    source = _opened(store)
    version = versions.resolve(source, reference)
    first = next(source.batches(version, rows=1), None)  # none of a table without rows
    if first is not None and (absent := [name for name in columns or () if name not in first.column_names]):
        names = ", ".join(first.column_names)
        raise UserError(f"{reference} has no column {', '.join(map(repr, absent))}; its columns: {names}.")
    try:
        return source.read(version, columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{reference} cannot be read: {error}. Is a file of {version.path} damaged?") from error


def recommend(
    dataset: str,
    users: Sequence[str] = (),
    *,
    items: Sequence[str] = (),
    k: int = 10,
    store: str | Path | None = None,
) -> "pa.Table":
    """What to show to users, from the champion's tables; the latest ones where no version is champion.

    Args:
        users: known users, by id.
        items: instead of `users`: what an unknown user chose. Unknown ids among them are warned of.
    Returns: user_id (for `users`), item_id, rank from 1, score, because; no rows for a user who chose every item.
    Raises: UserError: an unknown user, no known item, more than the published lists hold, or damaged weights.
    """
    import pyarrow as pa

    from pipeline.registry import recommend as recommending

    served = recommending.Served(_opened(store), dataset)
    if bool(users) == bool(items):
        raise UserError("Give users, or the items that an unknown user chose, and not both.")
    if users:
        return pa.concat_tables(recommending.for_users(served, list(dict.fromkeys(users)), k).values())
    table, unknown = recommending.for_items(served, items, k)
    if unknown:
        warnings.warn(f"{dataset} has no item {', '.join(map(repr, unknown))}", stacklevel=2)
    return table


def similar(dataset: str, item: str, k: int | None = None, *, store: str | Path | None = None) -> "pa.Table":
    """An item's nearest neighbours: neighbor_id, rank, similarity and one similarity_<feature> per feature.

    Args:
        k: at most as many as the graph holds, which is the default up to 10.
    Raises: UserError: no such item, or `k` is above the graph's.
    """
    from pipeline.similarity import lookup

    return lookup.similar(_opened(store), dataset, item, k)


def _of(kind: str, models: Any) -> Any:
    if kind not in models:
        raise UserError(f"source: expected one of {', '.join(sorted(models))}, found {kind!r}.")
    return models[kind]


def _address(store: str | Path | None) -> str:
    return str(store or os.environ.get("CM3_STORE") or "store")


def _opened(store: str | Path | None) -> "Store":
    from pipeline.store import Store

    return Store(_address(store))
