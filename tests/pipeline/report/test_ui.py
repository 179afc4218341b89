"""The server of a store's pages."""

import httpx
import pytest

from pipeline.report.ui import bound
from pipeline.store import Store
from schemas.errors import UserError


def test_a_request_under_another_hosts_name_is_refused(store: Store, client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:8000"}).status_code == 200


def test_a_taken_port_is_reported(store: Store) -> None:
    with bound(store) as server, pytest.raises(UserError, match="Choose another"), bound(store, server.server_port):
        pass
