"""Texts that a model does not read to their end, by every adapter, against the tokenizer itself."""

from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from transformers import AutoTokenizer

from pipeline.encoders import load, offline
from pipeline.encoders.base import TextEncoder
from pipeline.encoders.lengths import longer
from schemas.encoders import PRESETS, EncoderSpec
from tests.support.real_models import TEXTS, tiny_clip

PRESET = PRESETS["offline"].encoders
WORDS = [" ".join(["mug"] * count) for count in (1, 61, 62, 63, 300)]
"""Of the middle three, the tokens are one below, exactly, and one above 64."""


def encoder(spec: EncoderSpec) -> TextEncoder:
    ours = load.load(spec)
    assert isinstance(ours, TextEncoder)
    return ours


def spec_of(kind: str, folder: Path) -> EncoderSpec:
    if kind == "sentence":
        return PRESET["sentence"].model_copy(update={"max_tokens": 64})
    if kind == "open_clip_text":
        return PRESET["clip"].model_copy(update={"kind": kind, "max_tokens": 64})
    tiny_clip(folder)
    return EncoderSpec(kind=kind, model=str(folder / "clip"), max_tokens=64)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["sentence", "open_clip_text", "transformers_clip_text"])
def test_exactly_the_texts_of_more_tokens_than_the_limit_are_cut(kind: str, tmp_path: Path) -> None:
    assert encoder(spec_of(kind, tmp_path)).cut(WORDS) == [False, False, False, True, True]


def test_a_prompt_counts() -> None:
    ours = encoder(PRESET["sentence"].model_copy(update={"max_tokens": 64, "prompt": "query "}))
    assert ours.cut(WORDS) == [False, False, True, True, True]


def test_characters_that_become_several_tokens_are_not_taken_for_short() -> None:
    tokenizer = AutoTokenizer.from_pretrained(offline.unpack("minilm"))
    texts = [*TEXTS, "ﷺ" * 3, "中文" * 20, "—" * 31, "a" * 29, "x " * 15]
    lengths = [len(ids) for ids in tokenizer(texts, truncation=False)["input_ids"]]
    for limit in (8, 16, 32, 64):
        assert longer(tokenizer, texts, limit) == [length > limit for length in lengths]


def test_a_table_of_word_vectors_reads_all(tmp_path: Path) -> None:
    tokenizer = SentenceTransformer(str(offline.unpack("minilm")), device="cpu").tokenizer
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    static.save_pretrained(str(tmp_path / "static"))
    assert encoder(EncoderSpec(kind="sentence", model=str(tmp_path / "static"))).cut(["word " * 9000]) == [False]
