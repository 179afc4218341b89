"""Find tables and look at them: show, resolve, export, recommend, similar, ui."""

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import RenderableType
from rich.table import Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, opened
from flows.cli.tables import Shown, fitted
from schemas.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (show, resolve, export, recommend, similar, ui):
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
    part: Annotated[
        Literal["score", "item"],
        typer.Option(help="Embeddings: whole vectors, for users' scores, or the trained part, for item to item."),
    ] = "score",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Write vectors as `vectors.npy`, their ids as `ids.npy`, and a FAISS index or a Lance data set.

    Examples: `cm3 export demo/embeddings/items@champion ./vectors --index hnsw`,
    `cm3 export demo/embeddings/items ./alike --part item`
    """
    from pipeline.registry import export as exports
    from pipeline.registry import versions
    from schemas.export import ExportConfig

    source = opened(store)
    version = versions.resolve(source, reference)
    exported = exports.run(store=source, version=version, folder=folder, config=ExportConfig(index=index, part=part))
    left_out = f"; {exported.missing:,} rows without a vector are left out" if exported.missing else ""
    files = "\n".join(filter(None, (exported.vectors, exported.ids, exported.index)))
    recall = f"\nrecall of the index, measured: {exported.recall:.3f} of a sample's 10 best" if exported.recall else ""
    answer(exported, as_json, f"{exported.rows:,} vectors of {exported.dim} numbers{left_out}{recall}\n{files}")


def recommend(
    dataset: Dataset,
    users: Annotated[list[str], typer.Argument(help="Users' ids.", metavar="[USER]…")] = [],  # noqa: B006 - typer
    items: Annotated[
        list[str], typer.Option(help="What an unknown user chose: item ids with commas between them.")
    ] = [],  # noqa: B006 - typer reads defaults
    k: Annotated[int, typer.Option(min=1, help="Items shown for each user.")] = 10,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Print what to show a user, with titles and why, from the champion's tables (the latest ones without a champion).

    Examples: `cm3 recommend demo U0001`, `cm3 recommend demo --items D0001,D0002 --k 5`
    """
    from pipeline.registry import recommend as recommending

    chosen = [item for text in items for part in text.split(",") if (item := part.strip())]
    if bool(users) == bool(chosen):
        raise UserError(
            "Name users, or what an unknown user chose: cm3 recommend DATASET USER…, or DATASET --items A,B,C."
        )
    answers: list[dict[str, Any]]
    served = recommending.Served(opened(store), dataset)
    if chosen:
        table, unknown = recommending.for_items(served, chosen, k)
        answers = [{"chosen": chosen, "unknown": unknown, "items": recommending.described(served, table)}]
        names = [f"who chose {', '.join(chosen)}" + (f" (no such item: {', '.join(unknown)})" * bool(unknown))]
    else:
        lists = recommending.for_users(served, users, k)
        answers = [{"user": user, "items": recommending.described(served, rows)} for user, rows in lists.items()]
        names = list(lists)
    document = {"dataset": dataset, "version": served.version, "answers": answers}
    lines = [_recommended(name, entry["items"]) for name, entry in zip(names, answers, strict=True)]
    answer(document, as_json, *lines, f"from version {served.version} of {dataset}")


def similar(
    dataset: Dataset,
    item: Annotated[str, typer.Argument(help="The item's id.")],
    k: Annotated[int | None, typer.Option(min=1, help="Neighbours shown; default: the graph's, up to 10.")] = None,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Print an item's nearest neighbours, with their titles and the similarity by each feature.

    Example: `cm3 similar demo D0001`
    """
    from pipeline.similarity import lookup

    source = opened(store)
    neighbors = lookup.similar(source, dataset, item, k).to_pylist()
    ids = {item, *(row["neighbor_id"] for row in neighbors)}
    words = lookup.titles(source, source.latest(dataset, "items"), ids) if "items" in source.tables(dataset) else {}
    rows = [row | {"title": words.get(row["neighbor_id"])} for row in neighbors]
    features = [name for name in neighbors[0] if name.startswith("similarity")]
    columns = [
        Shown("rank", [str(row["rank"]) for row in rows], numeric=True),
        Shown("neighbour", [row["neighbor_id"] for row in rows]),
        Shown("title", [row["title"] or "–" for row in rows], cut=True),
        *(
            Shown(
                name.removeprefix("similarity_"),
                [_cell(row[name]) for row in rows],
                numeric=True,
                optional=name != "similarity",
            )
            for name in features
        ),
    ]
    answer(rows, as_json, fitted(columns, title=f"{item} {words.get(item) or ''}".strip()))


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


def _recommended(name: str, rows: list[dict[str, Any]]) -> RenderableType:
    if not rows:
        return f"{name}: nothing is left to recommend"
    because = ["; ".join(why["title"] or why["item_id"] for why in row["because"]) or "–" for row in rows]
    columns = [
        Shown("rank", [str(row["rank"]) for row in rows], numeric=True),
        Shown("item", [row["item_id"] for row in rows]),
        Shown("title", [row["title"] or "–" for row in rows], cut=True),
        Shown("score", [_cell(row["score"]) for row in rows], numeric=True),
        Shown("because they chose", because, cut=True),
    ]
    return fitted(columns, title=name)


def _cell(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
