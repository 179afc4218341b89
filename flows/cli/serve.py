"""Answer other programs: serve; and say what is never shown."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Dataset, JsonOption, StoreOption, answer, log_to_terminal, opened
from schemas.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(serve)
    app.command("never-show")(never_show)


def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen at; any other than 127.0.0.1 needs CM3_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Serving processes.")] = 1,
    store: StoreOption = "store",
) -> None:
    """Answer over HTTP what to show a user, from the champion; and show the store's pages in a web browser.

    Examples: `cm3 serve`, `cm3 serve --port 0 --workers 4`
    """
    from pipeline.serving.server import serve as serve_until_stopped

    log_to_terminal()
    serve_until_stopped(opened(store), host, port, workers, lambda url: print(f"{url}  (Ctrl-C stops)", flush=True))


def never_show(
    dataset: Dataset,
    file: Annotated[
        Path | None,
        typer.Argument(help="Text with one item id per line, - for standard input. Without it the list is printed."),
    ] = None,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Replace the list of items that are shown to nobody, such as sold-out ones; an empty file ends it.

    Items that the catalogue's column `never_shown` marks are shown to nobody either; without a file both are printed.
    `cm3 serve` and `cm3 recommend` follow at once, the table `recommendations` with the next run.

    Examples: `cm3 never-show shop sold_out.txt`, `cm3 never-show shop`
    """
    from pipeline import never_shown

    source = opened(store)
    if dataset not in source.datasets():
        raise UserError(f"No data set {dataset!r} in {source}; there are: {', '.join(source.datasets()) or 'none'}.")
    if file is None:
        ids = sorted(never_shown.read(source, dataset))
        answer({"dataset": dataset, "never_shown": ids}, as_json, *ids)
        return
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: expected UTF-8 text with one item id per line; it cannot be read: {error}") from error
    listed = never_shown.parsed(text)
    known = set(source.read(source.latest(dataset, "items"), ["item_id"])["item_id"].to_pylist())
    unknown = sorted(listed - known)
    never_shown.write(source, dataset, listed)
    more = f" {len(unknown):,} of them are not in the catalogue: {', '.join(unknown[:5])}" if unknown else ""
    document = {"dataset": dataset, "never_shown": sorted(listed), "unknown": unknown}
    answer(document, as_json, f"{len(listed):,} items of {dataset} are never shown.{more}")
