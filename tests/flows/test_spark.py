"""Spark reads every published table as it was written: types, nulls and nested values."""

from datetime import datetime
from typing import Any

import pytest

from pipeline.store import Store
from schemas.model import MODEL
from schemas.run import RunSummary
from tests.support.compose import required
from tests.support.published import jpeg, publish_gallery

pytestmark = pytest.mark.slow


def test_spark_reads_every_table(finished: tuple[Store, RunSummary]) -> None:
    required("java", "default-jre-headless")
    from pyspark.sql import SparkSession

    store, _ = finished
    publish_gallery(store, [("D0001", [jpeg((9, 9, 9)), None])], dataset="demo")
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        names = [name for name in store.tables("demo") if name != MODEL]
        assert len(names) >= 15
        for name in names:
            version = store.latest("demo", name)
            theirs = spark.read.parquet(version.path)
            ours = store.read(version)
            assert theirs.columns == ours.column_names
            assert same(theirs.toArrow().to_pylist(), ours.to_pylist()), name
        features = spark.read.parquet(store.latest("demo", "features/clip").path)
        assert features.filter("embedding is null").count() > 0, "an item without a picture has no vector"
    finally:
        spark.stop()


def same(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> bool:
    """Whether both have the same rows, in any order."""
    return sorted(map(repr, map(plain, theirs))) == sorted(map(repr, map(plain, ours)))


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose times do not name their zone."""
    return {name: value.timestamp() if isinstance(value, datetime) else value for name, value in row.items()}
