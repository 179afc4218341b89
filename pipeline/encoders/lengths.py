"""Which texts a model does not read to their end."""

from collections.abc import Sequence
from typing import Any

TOKENS_PER_CHARACTER = 36
"""The most tokens of one character outside ASCII: Unicode normalisation may make 18 characters of it, of two bytes."""


def longer(tokenizer: Any, texts: Sequence[str], limit: int) -> list[bool]:
    """Whether each text has more than `limit` tokens, special ones included, by a tokenizer of transformers.

    Short texts, which cannot, are not tokenized.
    """
    special = tokenizer.num_special_tokens_to_add() + 1  # and the mark that some put before the first word
    most = [len(text) * (1 if text.isascii() else TOKENS_PER_CHARACTER) + special for text in texts]
    doubtful = [i for i, tokens in enumerate(most) if tokens > limit]
    result = [False] * len(texts)
    if doubtful:
        tokens = tokenizer([texts[i] for i in doubtful], truncation=False, padding=False, verbose=False)["input_ids"]
        for i, ids in zip(doubtful, tokens, strict=True):
            result[i] = len(ids) > limit
    return result
