"""A run's end is its own: nothing that only shows it can fail it."""

import pytest

from flows.recorder import Recorder, plain
from pipeline.report import trends
from pipeline.store import Store
from schemas.contracts import Refusal
from schemas.errors import ContractError
from schemas.extract import PARAMETERS


def test_a_page_of_the_last_runs_that_fails_costs_no_run_and_hides_no_refusal(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = Refusal(dataset="shop", started="2026-01-01T00:00:00+00:00", stage="ingest", tables={}, verdicts=())
    store.put("shop/_refused/one.json", refusal.model_dump_json().encode())

    def disk_full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trends, "drawn", disk_full)
    parameters = PARAMETERS["catalogue"](raw="shop", name="shop", store=store.uri, models="offline")
    with Recorder(plain, parameters).running():
        pass
    with pytest.raises(ContractError, match="too few items"), Recorder(plain, parameters).running():
        raise ContractError("too few items", [])
    assert [record.message for record in caplog.records if "No space left" in record.message] == [
        "shop: the page of the last runs could not be made anew: OSError: [Errno 28] No space left on device. The next "
        "run makes it; nothing else is missing."
    ] * 2
