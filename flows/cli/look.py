"""Find tables and look at them: show, resolve, export, similar, ui."""

import contextlib
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, opened
from schemas.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (show, resolve, export, similar, ui):
        app.command()(command)


def show(
    dataset: Annotated[str, typer.Argument(help="Data set; without it, all of them are listed.")] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show what the last run of a data set made, or which data sets there are.

    Examples: `cm3 show`, `cm3 show demo`, `cm3 show demo --json`
    """
    from flows import summary

    source = opened(store)
    if dataset:
        last = summary.last(source, dataset)
        answer(last, as_json, summary.terminal(last))
        return
    datasets = {name: source.tables(name) for name in source.datasets()}
    if not datasets and not as_json:
        raise UserError(f"No data set in {source} yet; `cm3 run demo` makes one.")
    table = Table("data set", "tables")
    for name, tables in datasets.items():
        table.add_row(name, ", ".join(tables))
    answer(datasets, as_json, table)


def resolve(
    reference: Annotated[str, typer.Argument(help="DATASET/TABLE[@VERSION|@ALIAS|@NUMBER]")],
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Print the path of a table's Parquet, for any reader; as JSON with its rows, checksums and lineage.

    Examples: `cm3 resolve demo/items`, `cm3 resolve demo/embeddings/items@champion`,
    `duckdb -c "from '$(cm3 resolve demo/similarity)' limit 5"`
    """
    from pipeline.registry import versions

    version = versions.resolve(opened(store), reference)
    answer(version, as_json, version.path)


def export(
    reference: Annotated[str, typer.Argument(help="DATASET/TABLE[@VERSION|@ALIAS|@NUMBER] of a table with vectors.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make.")],
    index: Annotated[
        Literal["none", "flat", "hnsw", "lance"],
        typer.Option(help="FAISS index or Lance data set, written beside the vectors."),
    ] = "flat",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Write vectors as `vectors.npy`, their ids as `ids.npy`, and a FAISS index or a Lance data set.

    Example: `cm3 export demo/embeddings/items@champion ./vectors --index hnsw`
    """
    from pipeline.registry import export as exports
    from pipeline.registry import versions
    from schemas.export import ExportConfig

    source = opened(store)
    version = versions.resolve(source, reference)
    exported = exports.run(store=source, version=version, folder=folder, config=ExportConfig(index=index))
    left_out = f"; {exported.missing:,} rows without a vector are left out" if exported.missing else ""
    files = "\n".join(filter(None, (exported.vectors, exported.ids, exported.index)))
    answer(exported, as_json, f"{exported.rows:,} vectors of {exported.dim} numbers{left_out}\n{files}")


def similar(
    dataset: Dataset,
    item: Annotated[str, typer.Argument(help="The item's id.")],
    k: Annotated[int, typer.Option(min=1, help="Neighbours shown.")] = 10,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Print an item's nearest neighbours, with the similarity by each feature.

    Example: `cm3 similar demo D0001`
    """
    from pipeline.similarity import lookup

    neighbors = lookup.similar(opened(store), dataset, item, k).to_pylist()
    table = Table(*neighbors[0])
    for row in neighbors:
        table.add_row(*(_cell(value) for value in row.values()))
    answer(neighbors, as_json, table)


def ui(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8080,
    store: StoreOption = "store",
) -> None:
    """Browse data sets, versions, aliases and reports in a web browser, on this machine only.

    Example: `cm3 ui --port 0`
    """
    from pipeline.report.ui import bound

    with bound(opened(store), port) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"http://127.0.0.1:{server.server_address[1]}  (Ctrl-C stops)", flush=True)
        server.serve_forever()


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
