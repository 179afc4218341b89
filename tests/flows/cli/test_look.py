"""show, resolve, export and ui on the tables of a finished run."""

import socket
from pathlib import Path

import duckdb

from pipeline.store import Store
from schemas.run import RunSummary
from tests.support.command_line import cm3, cm3_process

Finished = tuple[Store, RunSummary]


def test_resolve_prints_a_path_that_duckdb_reads(finished: Finished) -> None:
    store, _ = finished
    path = cm3_process("resolve", "demo/embeddings/items@champion", store=store.uri).stdout.strip()
    assert duckdb.sql(f"select count(*) from '{path}'").fetchall()[0][0] > 0


def test_show_lists_data_sets_and_the_last_run(finished: Finished) -> None:
    store, _ = finished
    assert "demo" in cm3("show", store=store.uri).stdout
    shown = cm3("show", "demo", store=store.uri).stdout
    assert "features/clip" in shown
    assert "NDCG@20" in shown
    assert RunSummary.model_validate_json(cm3("show", "demo", "--json", store=store.uri).stdout) is not None


def test_a_path_is_never_broken_over_lines(finished: Finished) -> None:
    shown = cm3("show", "demo", store=finished[0].uri).stdout
    report = next(line for line in shown.splitlines() if line.startswith("report:"))
    assert Path(report.split()[1]).is_file()


def test_similar_prints_a_row_per_neighbour_with_each_features_similarity(finished: Finished) -> None:
    shown = cm3("similar", "demo", "D0001", "--k", "3", store=finished[0].uri).stdout
    assert "similarity_clip" in shown
    assert sum(line.count("D0001") for line in shown.splitlines()) == 3


def test_export_writes_vectors_ids_and_an_index(finished: Finished, tmp_path: Path) -> None:
    answer = cm3("export", "demo/embeddings/items@champion", str(tmp_path / "vectors"), store=finished[0].uri)
    assert answer.returncode == 0, answer.stderr
    assert {path.name for path in (tmp_path / "vectors").iterdir()} == {"vectors.npy", "ids.npy", "index.faiss"}


def test_a_taken_port_is_said_without_a_number_of_the_system(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = cm3("ui", "--port", str(taken.getsockname()[1]), store=tmp_path)
    assert answer.returncode == 1
    assert "cannot be used: Address already in use. Choose another one" in answer.stderr
