"""A database's address in a Prefect block reaches the process of the run, and no parameter."""

import os

import pytest
from prefect.blocks.system import Secret

from flows import blocks
from pipeline.ingest import sql
from schemas.errors import UserError
from schemas.run import CatalogueParameters
from schemas.sql import SqlQueries

pytestmark = pytest.mark.slow
URL = "postgresql://shop:pg5ecret0f7he7est@db/shop"


def parameters(url: str) -> CatalogueParameters:
    return CatalogueParameters(sql=SqlQueries(url=url, items="select 1 as item_id"))


def test_a_block_stands_in_the_environment_of_the_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.testing.utilities import prefect_test_harness  # takes 2 s, as it imports the server

    monkeypatch.setenv("CM3_BLOCK_SHOP_DATABASE_URL", "")
    with prefect_test_harness(server_startup_timeout=300):
        Secret(value=URL).save("shop-database")
        opened = blocks.opened(parameters("block:shop-database"))
        assert "pg5ecret0f7he7est" not in opened.model_dump_json()
        assert opened.source.sql.url == "env:CM3_BLOCK_SHOP_DATABASE_URL"
        assert os.environ["CM3_BLOCK_SHOP_DATABASE_URL"] == URL
        assert sql.address(opened.source.sql.url).password == "pg5ecret0f7he7est"
        with pytest.raises(UserError, match="no Secret block 'another'"):
            blocks.opened(parameters("block:another"))


def test_other_parameters_pass_as_they_are_and_a_block_outside_a_flow_is_refused() -> None:
    same = parameters("env:CM3_SHOP_URL")
    assert blocks.opened(same) is same
    with pytest.raises(UserError, match="only runs through Prefect read block:shop"):
        sql.address("block:shop")
