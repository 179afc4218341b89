"""Find tables and look at them: show, history, resolve, export, recommend, similar."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import RenderableType
from rich.table import Table

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, opened
from flows.cli.tables import Shown, fitted
from schemas.errors import UserError

if TYPE_CHECKING:
    from pipeline.store import Store
    from schemas.export import ExportConfig


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    for command in (show, history, resolve, export, recommend, similar):
        app.command()(command)


def show(
    dataset: Annotated[str, typer.Argument(help="Data set; without it, all of them are listed.")] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show what a data set's last run that trained made, or which data sets there are.

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


def history(
    dataset: Dataset,
    last: Annotated[int, typer.Option(min=1, help="Runs shown.")] = 20,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show the last runs of a data set, the newest first: what each made, how good it is, how long it took and what it
    cost. `cm3 serve` has them as charts.

    Examples: `cm3 history demo`, `cm3 history demo --last 5 --json`
    """
    from pipeline.history import read
    from pipeline.report.wording import count, figure, percent

    runs = list(reversed(read(opened(store), dataset, last)))
    features = dict.fromkeys(name for run in runs for name in run.coverage)
    columns = [
        Shown("started", [run.started[:16].replace("T", " ") for run in runs]),
        Shown("what", [run.state for run in runs]),
        Shown("items", [count(run.items) for run in runs], numeric=True),
        Shown("NDCG@20", [figure(run.ndcg) for run in runs], numeric=True),
        Shown("seconds", [count(run.seconds) for run in runs], numeric=True),
        Shown("encoded", [count(run.encoded) for run in runs], numeric=True, optional=True),
        Shown("failed", [count(run.pictures_failed) for run in runs], numeric=True, optional=True),
        Shown("cold recall", [figure(run.cold_recall) for run in runs], numeric=True, optional=True),
        Shown("overlap", [percent(run.neighbor_overlap) for run in runs], numeric=True, optional=True),
        Shown("cost", [f"{run.cost:,.2f}" if run.cost else "–" for run in runs], numeric=True, optional=True),
        *(
            Shown(name, [percent(run.coverage.get(name)) for run in runs], numeric=True, optional=True)
            for name in features
        ),
        Shown("interactions", [count(run.interactions) for run in runs], numeric=True, optional=True),
    ]
    why = [f"{run.started[:16].replace('T', ' ')}: {run.note}" for run in runs if run.note]
    answer(runs, as_json, fitted(columns, title=f"{dataset}: the last {len(runs)} runs"), "\n".join(why))


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
    reference: Annotated[
        str,
        typer.Argument(
            help="DATASET/TABLE[@VERSION|@ALIAS|@NUMBER] of a table with vectors; for `hf` DATASET[@ALIAS|@NUMBER]."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="Folder to make; for `atlas` a file, NAME.parquet.")],
    to: Annotated[
        Literal["vectors", "hf", "atlas"],
        typer.Option(
            help="vectors: .npy files and an index; hf: a folder that Hugging Face's `datasets` opens, with pictures; "
            "atlas: a file that Apple's Embedding Atlas opens, with places on a map and thumbnails."
        ),
    ] = "vectors",
    index: Annotated[
        Literal["none", "flat", "hnsw", "lance"],
        typer.Option(help="vectors: FAISS index or Lance data set, written beside them."),
    ] = "flat",
    part: Annotated[
        Literal["score", "item"],
        typer.Option(help="vectors: whole embeddings, for users' scores, or their trained part, to compare items."),
    ] = "score",
    push: Annotated[str, typer.Option(help="hf: OWNER/NAME on the hub to push to; needs HF_TOKEN.")] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Write vectors, or a whole data set, for other tools.

    Examples: `cm3 export demo/embeddings/items@champion ./vectors --index hnsw`,
    `cm3 export demo/embeddings/items ./alike --part item`, `cm3 export demo@champion ./demo-hf --to hf`,
    `cm3 export demo/features/clip demo.parquet --to atlas`
    """
    if push and to != "hf":
        raise UserError("--push: only what is exported with --to hf is pushed.")
    from schemas.export import ExportConfig

    source = opened(store)
    if to == "hf":
        answer(*_hugging_face(source, reference, target, push, as_json))
    elif to == "atlas":
        answer(*_atlas(source, reference, target, as_json))
    else:
        answer(*_vectors(source, reference, target, ExportConfig(index=index, part=part), as_json))


def _vectors(
    source: "Store", reference: str, folder: Path, config: "ExportConfig", as_json: bool
) -> tuple[Any, bool, str]:
    from pipeline.registry import export as exports
    from pipeline.registry import versions

    version = versions.resolve(source, reference)
    exported = exports.run(store=source, version=version, folder=folder, config=config)
    left_out = f"; {exported.missing:,} rows without a vector are left out" if exported.missing else ""
    files = "\n".join(filter(None, (exported.vectors, exported.ids, exported.index)))
    recall = f"\nrecall of the index, measured: {exported.recall:.3f} of a sample's 10 best" if exported.recall else ""
    return exported, as_json, f"{exported.rows:,} vectors of {exported.dim} numbers{left_out}{recall}\n{files}"


def _hugging_face(source: "Store", reference: str, folder: Path, push: str, as_json: bool) -> tuple[Any, bool, str]:
    from pipeline.registry import hugging_face, versions

    exported = hugging_face.run(store=source, tables=versions.tables_of(source, reference), folder=folder)
    if push:
        exported = exported.model_copy(update={"pushed": hugging_face.push(folder, push)})
    rows = "\n".join(f"{name}: {count:,} rows" for name, count in exported.rows.items())
    opens = f"datasets.load_dataset({exported.folder!r}, 'items')"
    return exported, as_json, f"{rows}\n{exported.pushed or opens}"


def _atlas(source: "Store", reference: str, file: Path, as_json: bool) -> tuple[Any, bool, str]:
    from pipeline.registry import atlas, versions

    vectors, of_items = versions.resolve(source, reference), versions.beside(source, reference)
    exported = atlas.run(
        store=source, vectors=vectors, items=of_items["items"], images=of_items.get("images"), file=file
    )
    return exported, as_json, f"{exported.rows:,} items on a map; to open it:\n{exported.command}"


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
