"""Is an answer a caption? Cheap rules; a picture that fails them is asked about once more, then gets a reason."""

import re
from collections import Counter

from schemas.tables import CaptionStatus

AGAIN = "Answer in one short sentence."
"""Appended to the prompt of the second request."""

_REFUSALS = re.compile(
    r"^\W*(i['’]?m sorry|sorry\b|i apologi[sz]e|i (can('|’)?t|cannot|can not|am unable|am not able|won('|’)?t)\b"
    r"|unable to|as an ai\b|as a (large )?language model|i do(n('|’)t| not) (see|have) (an|any|the)? ?"
    r"(image|picture|photo)|(no|there is no) (image|picture|photo)\b)",
    re.IGNORECASE,
)


def verdict(answer: str, max_words: int, *, cut: bool = False) -> CaptionStatus:
    """`OK`, or the reason why the answer is no caption.

    Args:
        max_words: a longer answer is `TOO_LONG`.
        cut: the answer was cut off at the token limit, which also makes it `TOO_LONG`.
    """
    words = re.findall(r"\w+", answer.lower())
    if not words:
        return CaptionStatus.EMPTY
    if _REFUSALS.search(answer):
        return CaptionStatus.REFUSAL
    if repeats(words):
        return CaptionStatus.REPETITION
    return CaptionStatus.TOO_LONG if cut or len(words) > max_words else CaptionStatus.OK


def repeats(words: list[str]) -> bool:
    """Whether one to eight words are repeated four times in succession, or a long answer has few distinct words.

    Short answers may repeat a word ("a very very big dog"), so the repetition must span at least four words. Long means
    twenty words or more, few means less than a quarter of them.
    """
    for period in range(1, 9):
        run = 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            if run >= 3 * period:
                return True
    return len(words) >= 20 and len(Counter(words)) < len(words) / 4
