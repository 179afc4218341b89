"""docker-compose.yml and Dockerfile: valid, safe by construction, and the commands in them really make a service."""

import contextlib
import errno
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import duckdb
import httpx
import pandas as pd
import polars as pl
import psutil
import psycopg
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import s3fs
import stamina
import yaml

from schemas import tables
from tests.support.compose import COMPOSE, DEADLINE, PORTS, ROOT, SECRETS, SERVE_PORT, FlowRun, Stack, interpolated

BIN = Path(sys.executable).parent
FILE = yaml.safe_load(interpolated(COMPOSE.read_text(), SECRETS))
SERVICES = FILE["services"]
ONE_SHOTS = {"migrate", "mlflow-database", "bucket", "deploy"}


@pytest.mark.slow
def test_the_compose_file_follows_the_compose_specification() -> None:
    check = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE]
    process = subprocess.run(check, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


@pytest.mark.slow
def test_the_dockerfile_passes_hadolint() -> None:
    process = subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_every_image_is_pinned_and_none_of_ours_runs_as_root() -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.M)
    images = [service["image"] for service in SERVICES.values()]
    assert all(re.search(r":\d+\.\d+", image) for image in bases + images)
    assert re.search(r"^USER \d+$", (ROOT / "Dockerfile").read_text(), re.M)
    ours = [service for service in SERVICES.values() if "build" in service]
    assert ours
    assert all(service["user"] != "0" for service in ours)


def test_every_service_is_built_for_cpus_unless_the_worker_is_told_otherwise() -> None:
    assert {service["build"]["args"]["TORCH"] for service in SERVICES.values() if "build" in service} == {"cpu"}
    cuda = yaml.safe_load(interpolated(COMPOSE.read_text(), SECRETS | {"TORCH": "cuda"}))["services"]
    built = {name: service["build"]["args"]["TORCH"] for name, service in cuda.items() if "build" in service}
    assert [name for name, torch in built.items() if torch == "cuda"] == ["worker"]
    for name, torch in built.items():
        assert cuda[name]["image"].endswith(f"-{torch}"), "two builds never share a name"


def test_no_container_has_capabilities_or_can_gain_privileges() -> None:
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] not in ("0", "root"), name


def test_runs_that_come_through_prefect_are_confined_to_their_store_and_catalogues() -> None:
    worker = SERVICES["worker"]["environment"]
    assert worker["CM3_ALLOWED_STORES"] == "s3://cm3/features"
    assert worker["CM3_ALLOWED_RAW"] == "/raw"
    assert (worker["CM3_ALLOWED_CLUSTERS"], worker["CM3_TRUST_REMOTE_CODE"]) == ("", "")


def test_services_come_back_and_one_shots_are_tried_again() -> None:
    for name, service in SERVICES.items():
        assert service["restart"] == ("on-failure" if name in ONE_SHOTS else "unless-stopped"), name
        assert name in ONE_SHOTS | {"services"} or "healthcheck" in service, name


def test_what_must_outlive_a_container_lies_in_a_named_volume() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert set(FILE["volumes"]) == used - {"./raw"}
    for name in ("postgres", "redis", "s3"):
        assert SERVICES[name]["volumes"]


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_no_secret_is_in_the_file_and_a_missing_one_stops_it() -> None:
    text = COMPOSE.read_text()
    example = re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.M)
    assert {name for name, _ in example} == set(SECRETS)
    assert all(value == "" for _, value in example)
    for name in SECRETS:
        with pytest.raises(ValueError, match=f"{name}: set it in .env"):
            interpolated(text, {k: v for k, v in SECRETS.items() if k != name})
    for line in re.findall(r".*(?:PASSWORD|SECRET|ACCESS_KEY).*", text):
        assert re.search(r"\$\{\w+:\?", line), line
    assert "/.env" in (ROOT / ".gitignore").read_text().split()


@pytest.fixture(scope="module")
def bucket(stack: Stack, trained: FlowRun) -> s3fs.S3FileSystem:
    """The store's bucket as a consumer with keys sees it, after one run."""
    return stack.bucket()


def path_of(bucket: s3fs.S3FileSystem, table: str) -> str:
    version = bucket.cat_file(f"cm3/features/demo/{table}/latest").decode()
    return f"cm3/features/demo/{table}/{version}.parquet"


def test_the_demo_runs_through_the_worker_and_publishes_every_table_to_s3(
    bucket: s3fs.S3FileSystem, trained: FlowRun
) -> None:
    assert trained["state_type"] == "COMPLETED"
    assert trained["deployment_id"]
    summary = json.loads(bucket.cat_file("cm3/features/demo/_runs/latest.json"))
    expected = {"items", "interactions", "images", "features/sentence", "features/vision", "similarity", "metrics"}
    assert expected <= {stage["table"] for stage in summary["stages"]}
    assert all(stage["path"].startswith("s3://cm3/features/demo/") for stage in summary["stages"])
    assert bucket.exists(summary["report"])


@pytest.mark.parametrize("table", ["items", "features/vision", "similarity", "embeddings/items"])
def test_every_reader_reads_the_same_rows_and_types_over_s3(
    stack: Stack, bucket: s3fs.S3FileSystem, table: str
) -> None:
    path, options = path_of(bucket, table), stack.storage_options()
    polars = pl.read_parquet(
        f"s3://{path}/*.parquet",
        storage_options={
            "aws_access_key_id": options["key"],
            "aws_secret_access_key": options["secret"],
            "aws_endpoint_url": options["endpoint"],
            "aws_region": "us-east-1",
            "aws_allow_http": "true",
        },
    )
    arrow = pyarrow.fs.S3FileSystem(
        access_key=options["key"],
        secret_key=options["secret"],
        endpoint_override=options["endpoint"].removeprefix("http://"),
        scheme="http",
    )
    dataset = ds.dataset(path, filesystem=arrow, format="parquet")
    panda = pd.read_parquet(
        f"s3://{path}",
        storage_options={"key": options["key"], "secret": options["secret"], "endpoint_url": options["endpoint"]},
    )
    with duckdb.connect() as duck:
        duck.register_filesystem(bucket)
        query = f"select item_id, count(*) over () from read_parquet('s3://{path}/*.parquet')"
        rows = duck.sql(query).fetchall()
    ids = polars["item_id"].to_list()
    assert len(ids) > 0
    assert ids == dataset.to_table()["item_id"].to_pylist() == panda["item_id"].to_list()
    assert sorted(ids) == sorted(row[0] for row in rows)
    assert polars.columns == dataset.schema.names == list(panda.columns)
    if table == "items":
        assert dataset.schema.remove_metadata().equals(tables.ITEMS)
    if "embedding" in polars.columns:
        assert isinstance(polars.schema["embedding"], pl.Array)
        assert dataset.to_table()["embedding"].null_count == polars["embedding"].null_count()
        assert table != "features/vision" or polars["embedding"].null_count() > 0


def test_each_file_says_what_it_is(bucket: s3fs.S3FileSystem) -> None:
    with bucket.open(f"{path_of(bucket, 'features/vision')}/part-00000.parquet") as file:
        metadata = pq.read_metadata(file).metadata
    assert metadata[b"cm3.schema"] == b"features/vision"
    assert metadata[b"cm3.encoder"]
    assert json.loads(metadata[b"cm3.inputs"]).keys() == {"images"}


def test_the_workers_log_is_json_that_says_which_run_and_stage(stack: Stack, trained: FlowRun) -> None:
    lines = [line for line in (stack.folder / "worker.log").read_text().splitlines() if line.startswith("{")]
    staged = [said for said in map(json.loads, lines) if "stage" in said and said["flow_run"] == trained["name"]]
    assert {"ingest", "images", "features/sentence", "train"} <= {said["stage"] for said in staged}
    assert {said["dataset"] for said in staged} == {"demo"}


def ask(stack: Stack, database: str, query: str) -> list[tuple[object, ...]]:
    """Rows of a query to the PostgreSQL server of the stack."""
    settings = {"host": "127.0.0.1", "port": stack.ports["5432"], "user": "cm3", "dbname": database}
    with contextlib.closing(psycopg.connect(**settings, password=SECRETS["POSTGRES_PASSWORD"])) as connection:
        cursor = connection.cursor()
        cursor.execute(query)
        return list(cursor.fetchall())


def test_registry_and_runs_are_in_postgresql(stack: Stack, trained: FlowRun) -> None:
    assert ask(stack, "mlflow", "select name, alias from registered_model_aliases") == [("demo", "champion")]
    assert ask(stack, "prefect", f"select state_type::text from flow_run where id = '{trained['id']}'") == [
        ("COMPLETED",)
    ]


def test_prefect_asks_for_its_login(stack: Stack) -> None:
    url = stack.environment("worker")["PREFECT_API_URL"]
    assert httpx.get(f"{url}/admin/version").status_code == 401
    assert httpx.post(f"{url}/deployments/filter", json={}).status_code == 403  # no token; and 401 with one
    assert httpx.get(f"{url}/csrf-token?client=me").status_code == 401
    evil = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(f"{url}/deployments/filter", headers=evil).headers


def test_a_run_that_names_another_store_is_refused(stack: Stack, trained: FlowRun, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    ended = stack.prefect("deployment", "run", "ingest-and-train/demo", "--param", f"store={evil}", "--watch")
    assert ended.returncode != 0
    assert "CM3_ALLOWED_STORES" in stack.newest_run("ingest-and-train")["state"]["message"]
    assert not evil.exists()


def test_redis_asks_for_its_password(stack: Stack) -> None:
    with socket.create_connection(("127.0.0.1", int(stack.ports["6379"])), timeout=30) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(200).startswith(b"-NOAUTH")


def test_other_containers_reach_only_the_signed_port_of_seaweedfs(stack: Stack) -> None:
    """127.0.0.2 stands for another container: a server bound to its own 127.0.0.1 does not hear it."""
    command = SERVICES["s3"]["command"]
    assert "-ip.bind=127.0.0.1" in command
    assert "-s3.ip.bind=0.0.0.0" in command
    for port in stack.seaweed.values():
        assert socket.socket().connect_ex(("127.0.0.2", int(port))) == errno.ECONNREFUSED
        assert socket.socket().connect_ex(("127.0.0.1", int(port))) == 0
    endpoint = stack.storage_options()["endpoint"]
    assert httpx.put(f"{endpoint}/cm3/unsigned", content=b"x").status_code == 403


def test_mlflow_answers_to_its_name_in_the_compose_network_and_to_no_strange_one(stack: Stack) -> None:
    allowed = SERVICES["mlflow"]["command"][SERVICES["mlflow"]["command"].index("--allowed-hosts") + 1]
    assert "mlflow:5000" in allowed.split(",")
    url = f"http://127.0.0.1:{stack.ports[PORTS[3]]}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(url).status_code == 200
    assert httpx.get(url, headers={"Host": "elsewhere.example"}).status_code == 403


def test_mlflow_has_no_processes_but_its_server(stack: Stack) -> None:
    """Its runners of jobs, which nothing here asks for, would take 2 GB."""
    assert len(psutil.Process(stack.running["mlflow"].pid).children(recursive=True)) == 1


def test_the_service_answers_from_s3_who_has_the_key(stack: Stack, trained: FlowRun) -> None:
    url = f"http://127.0.0.1:{stack.ports[SERVE_PORT]}"
    assert httpx.get(f"{url}/v1/demo/recommend/U0001").status_code == 401
    key = {"Authorization": f"Bearer {SECRETS['CM3_API_KEY']}"}
    for attempt in stamina.retry_context(on=AssertionError, timeout=DEADLINE, attempts=None, wait_max=1.0):
        with attempt:  # the run has just ended
            answer = httpx.get(f"{url}/v1/demo/recommend/U0001", headers=key)
            assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == "1"
    assert len(answer.json()["items"]) == 10
    assert httpx.get(f"{url}/readyz", headers=key).json()["problems"] == {}


def test_no_secret_is_in_a_log_a_table_or_a_record(stack: Stack, bucket: s3fs.S3FileSystem, trained: FlowRun) -> None:
    texts = {path.name: path.read_bytes() for path in stack.folder.glob("*.log")}
    texts["Prefect's log"] = json.dumps(stack.api("/logs/filter", {"limit": 200})).encode()
    texts |= {path: bucket.cat_file(path) for path in bucket.find("cm3/features/demo")}
    assert len(texts) > 30
    del texts["s3.log"]  # SeaweedFS says whose access key it knows; the key's name is no secret, and no process of ours
    telling = {name for name, data in texts.items() for secret in SECRETS.values() if secret.encode() in data}
    assert not telling
    assert SECRETS["S3_SECRET_KEY"] not in stack.log("s3")
