"""`prefect deployment run` against a real server with the served deployments: what `make up` gives."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import httpx
import psutil
import pytest
from playwright import sync_api
from prefect.flows import load_flow_from_entrypoint

from flows import deployments, local
from pipeline.demo.server import serve
from pipeline.registry import versions
from pipeline.store import Store
from schemas.sources import SOURCES
from tests.conftest import ROOT
from tests.support import prefect_api
from tests.support.compose import required
from tests.support.gift_cards import reviewed_gift_cards
from tests.support.ports import free_port
from tests.support.small_demo import QUICK, SMALL

SECONDS = 580
PROGRESS = {"any_": ["progress"]}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator["subprocess.Popen[str]"]:
    """`cm3 up` as a process, from its word that the deployments are served on; the last test here ends it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CM3_HOME", str(tmp_path_factory.mktemp("home")))
        heeds_ctrl_c = ("env", "--default-signal=INT")  # as in a terminal, however the tests were started
        command = [*heeds_ctrl_c, sys.executable, "-m", "flows.cli", "up", "--port", str(free_port())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert any("Ctrl-C stops everything" in line for line in process.stdout), "what it said is above"
            yield process
        finally:
            local.stop(process)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def environment(up: "subprocess.Popen[str]") -> dict[str, str]:
    """The environment in which Prefect's commands find its server, which serves our deployments."""
    return local.prefect_environment(int(up.args[-1]))  # type: ignore[index]


def run(environment: dict[str, str], deployment: str, **parameters: object) -> "subprocess.CompletedProcess[str]":
    command = [local.executable("prefect"), "deployment", "run", f"ingest-and-train/{deployment}", "--watch"]
    for name, value in parameters.items():
        command += ["--param", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_the_demo_deployment_completes_and_registers(environment: dict[str, str], tmp_path: Path) -> None:
    process = run(
        environment,
        "demo",
        store=str(tmp_path),
        demo=SMALL.model_dump(),
        trainer=QUICK.model_dump(mode="json"),
        features=["sentence", "clip"],
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Completed" in process.stdout
    with prefect_api.client(environment) as api:
        answer = api.post("/artifacts/filter", json={"artifacts": {"type": PROGRESS}})
    progress = {artifact["description"].split(":")[0]: artifact for artifact in answer.json()}
    assert set(progress) >= {"features/sentence", "features/clip", "images", "training"}
    assert all(artifact["data"] == 100.0 and artifact["task_run_id"] for artifact in progress.values())
    path = versions.resolve(Store(tmp_path), "demo/embeddings/items@champion").path
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall()[0][0] > 0


def test_gift_cards_from_their_own_files_over_http(
    environment: dict[str, str], tmp_path: Path, shared_data: Path
) -> None:
    with serve(reviewed_gift_cards(shared_data / "amazon-2018", tmp_path / "raw")) as base:
        process = run(
            environment,
            "amazon",
            category="Gift_Cards",
            release=2018,
            raw=base,
            models="offline",
            image_url=base + "/images/{item_id}.jpg",
            store=str(tmp_path / "store"),
            trainer=QUICK.model_dump(mode="json"),
            ingest={"require": ["title", "image"]},
            features=["sentence", "clip"],
        )
    assert process.returncode == 0, process.stdout + process.stderr
    store = Store(tmp_path / "store")
    dataset = "amazon-gift-cards"
    assert set(store.tables(dataset)) >= {"items", "interactions", "images", "similarity", "embeddings/users"}
    pictures = versions.resolve(store, f"{dataset}/images@champion").path
    ((downloaded,),) = duckdb.sql(f"select count(*) from '{pictures}' where status = 'ok'").fetchall()
    assert downloaded > 50


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"category": "Gift_Cards", "models": "best"},
            "'best' is not one of ['default', 'multilingual', 'ecommerce', 'unified', 'offline']",
        ),
        ({"category": "Gift_Cards", "colour": 1}, "colour"),
        ({}, "category"),
    ],
)
def test_wrong_parameters_are_refused_before_a_run_starts(
    environment: dict[str, str], parameters: dict[str, object], message: str
) -> None:
    process = run(environment, "amazon", **parameters)
    assert process.returncode != 0
    assert message in " ".join((process.stdout + process.stderr).split())


def test_a_missing_file_fails_the_run_with_its_message_and_no_trace(
    environment: dict[str, str], tmp_path: Path
) -> None:
    run(environment, "amazon", category="Gift_Cards", raw=str(tmp_path), store=str(tmp_path / "store"))
    with prefect_api.client(environment) as api:
        failed = api.post(
            "/flow_runs/filter",
            json={"sort": "START_TIME_DESC", "limit": 1, "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}},
        ).json()[0]
        logs = api.post("/logs/filter", json={"logs": {"flow_run_id": {"any_": [failed["id"]]}}}).json()
    assert "meta_Gift_Cards.json.gz" in failed["state"]["message"]
    assert not any("Traceback" in line["message"] for line in logs)


EVIL_PAGE = """<script>
(async () => {
  const told = [];
  for (const [path, type] of [["/deployments/filter", "application/json"], ["/deployments/filter", "text/plain"]]) {
    try {
      const answer = await fetch(API + path, {method: "POST", headers: {"Content-Type": type}, body: '{"limit": 50}'});
      told.push("read " + answer.status + " " + (await answer.text()).length);
    } catch (error) { told.push("refused"); }
  }
  try {
    const body = '{"name": "by-evil-page"}';
    await fetch(API + "/flows/", {method: "POST", mode: "no-cors", headers: {"Content-Type": "text/plain"}, body});
  } catch (error) {}
  document.title = "told: " + told.join(", ");
})();
</script>"""


def test_a_page_at_another_origin_reads_nothing_and_starts_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    url = environment["PREFECT_API_URL"]
    (tmp_path / "index.html").write_text(EVIL_PAGE.replace("API", json.dumps(url)))
    with serve(tmp_path) as base, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=required("chromium", "chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{base}/index.html")
        page.wait_for_function("document.title.startsWith('told')")
        assert page.title() == "told: refused, refused"
        browser.close()
    with prefect_api.client(environment) as api:
        assert "by-evil-page" not in api.post("/flows/filter", json={}).text


def test_the_server_answers_who_has_the_login_and_to_its_own_pages(environment: dict[str, str]) -> None:
    url, evil = environment["PREFECT_API_URL"], {"Origin": "http://evil.example"}
    assert httpx.post(f"{url}/deployments/filter", json={}, headers=evil).status_code == 403
    for path in ("admin/version", "csrf-token?client=me"):
        assert httpx.get(f"{url}/{path}", headers=evil).status_code == 401
    asked = {"Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(f"{url}/deployments/filter", headers=evil | asked).headers
    with prefect_api.client(environment) as api:
        answer = api.post("/deployments/filter", json={}, headers=evil)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers
    user, _, password = environment["PREFECT_API_AUTH_STRING"].partition(":")
    without_token = httpx.post(f"{url}/deployments/filter", json={}, headers=evil, auth=(user, password))
    assert without_token.status_code == 403


def test_the_login_is_made_once_and_no_other_user_can_read_it(environment: dict[str, str]) -> None:
    home = Path(environment["PREFECT_HOME"]).parent
    assert (home / "login").read_text().strip() == environment["PREFECT_API_AUTH_STRING"]
    for file in (home / "login", home / "prefect/profiles.toml"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_another_terminal_finds_the_server_by_the_folder_that_the_hint_names(environment: dict[str, str]) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.run(
        [local.executable("prefect"), "deployment", "inspect", "ingest-and-train/demo"],
        env=plain | {"PREFECT_HOME": environment["PREFECT_HOME"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_the_operators_own_login_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CM3_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "me:mine")
    variables = local.prefect_environment(4200)
    assert variables["PREFECT_SERVER_API_AUTH_STRING"] == variables["PREFECT_API_AUTH_STRING"] == "me:mine"
    assert not (tmp_path / "login").exists()


def test_a_taken_port_is_named_with_a_way_out(environment: dict[str, str]) -> None:
    port = environment["PREFECT_API_URL"].split(":")[2].split("/")[0]
    command = [sys.executable, "-m", "flows.cli", "up", "--port", port]
    process = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert process.returncode == 1
    assert f"Port {port} is in use" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize("deployment", deployments.listed(), ids=lambda each: each.full_name)
def test_every_deployment_is_a_flow_with_the_documented_parameters_of_its_source(
    deployment: deployments.Deployment,
) -> None:
    flow = deployment.flow()
    assert f"{flow.name}/{deployment.name}" == deployment.full_name
    fields = flow.parameters.properties
    assert all(field["description"] for field in fields.values())
    source = SOURCES[deployment.name]
    assert set(fields) > set(source.model_fields) - {"kind"}
    assert "kind" not in fields
    required = {name for name, field in source.model_fields.items() if field.is_required()}
    assert set(flow.parameters.required) == required
    assert ("retrain" in fields) == (flow.name == "re-extract")


@pytest.mark.parametrize("entrypoint", ["flows/ingest_and_train.py:amazon", "flows/re_extract.py:mmrec"])
def test_prefect_loads_an_entrypoint_from_its_file(entrypoint: str) -> None:
    (deployment,) = (each for each in deployments.listed() if each.entrypoint == entrypoint)
    flow = load_flow_from_entrypoint(str(ROOT / entrypoint), use_placeholder_flow=False)
    assert flow.parameters == deployment.flow().parameters
    assert flow.fn.__name__ == deployment.name


def test_make_up_ends_at_ctrl_c_and_leaves_no_process(up: "subprocess.Popen[str]", environment: dict[str, str]) -> None:
    """The last test of this file: it ends what the others ask."""
    family = psutil.Process(up.pid).children(recursive=True)
    assert len(family) >= 2
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=SECONDS)
    assert up.returncode == 130
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
