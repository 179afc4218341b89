"""Requests that come together are scored together."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from pipeline.serving import scoring
from pipeline.serving.follower import Follower
from pipeline.serving.grouped import Records
from pipeline.serving.model import Model, Wanted
from pipeline.serving.scoring import Overloaded, Scoring
from pipeline.store import Store


class Slow(Model):
    """Notes how many users each product had, and computes when it may."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.may, self.sizes = Event(), []

    def best(self, wanted: Sequence[Wanted]) -> list[Records]:
        self.sizes.append(len(wanted))
        self.may.wait(60)
        return super().best(wanted)


@pytest.fixture
def model(registered: Path, tmp_path: Path) -> Slow:
    state = Follower(Store(registered), tmp_path).look()
    return Slow(tmp_path / state.datasets["shop"].folder)


def test_who_asks_during_a_product_is_answered_by_the_next_one_as_alone(model: Slow) -> None:
    async def together() -> list[Records]:
        queue = Scoring(model)
        first = asyncio.create_task(queue.best(Wanted(0, 5)))
        while not model.sizes:
            await asyncio.sleep(0)
        others = [asyncio.create_task(queue.best(Wanted(user, 5))) for user in range(1, 9)]
        await asyncio.sleep(0)
        others[3].cancel()
        model.may.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        return [answer for number, answer in enumerate(answers) if number != 4]

    answers = asyncio.run(together())
    assert model.sizes == [1, 7], "who hung up is not scored"
    for user, answer in zip((0, 1, 2, 3, 5, 6, 7, 8), answers, strict=True):
        np.testing.assert_array_equal(answer["item"], model.best([Wanted(user, 5)])[0]["item"])


def test_more_than_may_wait_are_refused(model: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "WAITING", 3)

    async def crowd() -> list[object]:
        queue = Scoring(model)
        asked = [asyncio.create_task(queue.best(Wanted(user, 5))) for user in range(6)]
        await asyncio.sleep(0)
        model.may.set()
        return list(await asyncio.gather(*asked, return_exceptions=True))

    assert sum(isinstance(answer, Overloaded) for answer in asyncio.run(crowd())) == 3


def test_a_failed_product_fails_those_who_asked_and_nobody_after_them(
    model: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.may.set()

    async def ask() -> tuple[object, Records]:
        queue = Scoring(model)
        with monkeypatch.context() as patch:
            patch.setattr(model, "best", lambda _: 1 / 0)
            (failed,) = await asyncio.gather(queue.best(Wanted(0, 5)), return_exceptions=True)
        return failed, await queue.best(Wanted(0, 5))

    failed, answered = asyncio.run(ask())
    assert isinstance(failed, ZeroDivisionError)
    assert len(answered) == 5
