"""A captioner on this machine, with the tiny model that the packages carry."""

import pytest

from pipeline.captions import load
from pipeline.encoders.base import Captioner
from schemas.encoders import PRESETS


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return load.load(PRESETS["offline"].captioner)


def test_a_batch_of_one_says_what_a_batch_of_six_says(captioner: Captioner, drawings: list[bytes]) -> None:
    alone = [captioner.caption([picture])[0].text for picture in drawings]
    assert alone == [answer.text for answer in captioner.caption(drawings)]


def test_a_picture_the_captioner_cannot_read_is_a_failed_answer_among_good_ones(
    captioner: Captioner, drawings: list[bytes]
) -> None:
    good, bad = captioner.caption([drawings[0], b"no picture"])
    assert not good.failed
    assert bad.failed
    assert "cannot be read" in bad.text
