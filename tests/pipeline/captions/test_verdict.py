"""Which answers are captions, by rules that look at the text alone."""

import pytest

from pipeline.captions.verdict import verdict


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("a red mug", "ok"),
        ("a very very big dog", "ok"),
        (" ... ", "empty"),
        ("Sorry, I can't help with that.", "refusal"),
        ("As an AI model, I do not see pictures.", "refusal"),
        ("There is no image.", "refusal"),
        ("a mug a mug a mug a mug", "repetition"),
        ("red mug " * 2 + "on a table", "ok"),
        ("one two three four five " * 4, "repetition"),
        (" ".join(f"word{n}" for n in range(10)), "ok"),
        (" ".join(f"word{n}" for n in range(11)), "too_long"),
    ],
)
def test_an_answer_is_a_caption_or_has_a_reason(answer: str, status: str) -> None:
    assert verdict(answer, max_words=10) == status


def test_a_long_answer_of_few_words_is_a_repetition_whatever_their_order() -> None:
    few = "red blue green red green blue blue red green green blue red red blue blue green green red blue red"
    assert verdict(few, max_words=60) == "repetition"


def test_an_answer_that_was_cut_off_is_too_long() -> None:
    assert verdict("a red mug on", max_words=10, cut=True) == "too_long"
