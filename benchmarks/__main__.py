"""`python -m benchmarks RACE [--json] [--quick]`: one race, or `all` of them into docs/benchmarks.md."""

import importlib
import json
import logging
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
COLUMNS = ("case", "ours", "peer", "unit", "times better", "growth", "CPU s", "wall s", "peak MB")
WIDE = 160
"""Columns of a table that is written to a file."""
BEGIN, END = "<!-- {} figures: written by the line below -->", "<!-- end of {} figures -->"


class Race(StrEnum):
    """The races; each is a module."""

    DOWNLOAD = "download"
    DECODE = "decode"
    ENCODE = "encode"
    SIMILARITY = "similarity"
    APPROXIMATE = "approximate"
    TRAIN = "train"
    WEIGHTS = "weights"
    EVALUATE = "evaluate"
    INGEST = "ingest"
    CATALOGUE = "catalogue"
    SERVE = "serve"
    END_TO_END = "end-to-end"


def main(
    race: Annotated[str, typer.Argument(help=f"{', '.join(Race)}, or all")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes, fewer repeats.")] = False,
) -> None:
    """Run a race against its peer and print how many times better ours is (above 1 is better).

    Examples: `python -m benchmarks similarity --quick`, `python -m benchmarks all --quick`
    """
    logging.basicConfig(level=logging.WARNING)
    if race != "all" and race not in list(Race):
        raise typer.BadParameter(f"{race!r} is none of {', '.join(Race)}, all")
    results = [run_in_process(name, quick) for name in Race] if race == "all" else [run(Race(race), quick)]
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    for result in results:
        console.print(table(result))
    if race == "all":
        write(results, quick)
    if as_json:
        print(json.dumps(results[0] if race != "all" else results))


def run(race: Race, quick: bool) -> dict[str, Any]:
    """One race's result; see `measure.result`."""
    module = importlib.import_module(f"benchmarks.{race.replace('-', '_')}")
    result: dict[str, Any] = module.main(quick)
    return result


def run_in_process(race: Race, quick: bool) -> dict[str, Any]:
    """One race in a separate process, so that its memory does not affect the next race."""
    command = [sys.executable, "-m", "benchmarks", race, "--json", *(["--quick"] if quick else [])]
    completed = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if completed.returncode:
        raise SystemExit(f"{race}: the race ended with status {completed.returncode}")
    result: dict[str, Any] = json.loads(completed.stdout.splitlines()[-1])
    return result


def table(result: dict[str, Any]) -> Table:
    """A race's result for the terminal."""
    rows = Table(title=result["race"], title_justify="left")
    for name in COLUMNS:
        rows.add_column(name, justify="left" if name in ("case", "unit") else "right")
    for case in result["cases"]:
        rows.add_row(*_row(case))
    return rows


def write(results: list[dict[str, Any]], quick: bool) -> None:
    """Write the figures between the page's marks for this form; the text around them is written by hand."""
    form = "quick" if quick else "full"
    begin, end = BEGIN.format(form), END.format(form)
    head = f"| race | {' | '.join(COLUMNS)} |"
    rule = "|---|---|--:|--:|---|--:|--:|--:|--:|--:|"
    rows = [f"| {r['race']} | " + " | ".join(_row(case)) + " |" for r in results for case in r["cases"]]
    machine, versions = results[0]["machine"], dict(pair for r in results for pair in sorted(r["versions"].items()))
    caption = (
        f"Written by `python -m benchmarks all{' --quick' if quick else ''}` on {machine['cores']} cores of "
        f"{machine['processor']}, {machine['memory_gb']} GB; {', '.join(f'{k} {v}' for k, v in versions.items())}."
    )
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    PAGE.write_text("\n".join((before + begin, caption, "", head, rule, *rows, end + after)), encoding="utf-8")


def _row(case: dict[str, Any]) -> tuple[str, ...]:
    def number(key: str) -> str:
        value = case.get(key)
        if value is None:
            return ""
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    peer = f"{number('peer')} ({case['peer_name']})" if case.get("peer_name") else number("peer")
    low, high = case.get("spread") or (None, None)
    ratio = number("ratio") + (f" [{low:.3g}, {high:.3g}]" if low is not None and high is not None else "")
    exponents = [case.get(f"{what}_exponent") for what in ("time", "memory")]
    growth = ""
    if None not in exponents:
        first, *_, last = case["sizes_peak_rss_mb"]
        growth = f"time {exponents[0]:.2f}, memory {exponents[1]:.2f} ({first:,.0f} to {last:,.0f} MB)"
    figures = (number(key) for key in ("cpu_s", "wall_s", "peak_rss_mb"))
    name = f"{case['case']}, recall {case['recall']:.3f}" if "recall" in case else str(case["case"])
    return (name, number("ours"), peer, str(case.get("unit", "")), ratio, growth, *figures)


if __name__ == "__main__":
    typer.run(main)
