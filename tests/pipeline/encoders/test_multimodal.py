"""The adapter of multimodal models against sentence-transformers itself, whatever the batch."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer

from pipeline.encoders import load, multimodal
from pipeline.encoders.base import Item
from pipeline.encoders.many_devices import ManyDevices
from pipeline.encoders.multimodal import MultimodalEncoder
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from tests.support.real_models import TEXTS, tiny_clip, tiny_reader
from tests.support.warm import CONTEXT


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceTransformer, Path]:
    folder = tmp_path_factory.mktemp("clip")
    return tiny_clip(folder), folder / "model"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceTransformer, Path]:
    folder = tmp_path_factory.mktemp("reader")
    return tiny_reader(folder), folder / "model"


@pytest.fixture(scope="module")
def items(drawings: list[bytes]) -> list[Item]:
    """Items with both parts, one of them, several pictures, a long text, and a text that names an address."""
    a, b, c, *_ = (Image.open(io.BytesIO(drawing)).convert("RGB") for drawing in drawings)
    return [
        Item(TEXTS[0], (a,)),
        Item(TEXTS[1], (a, b, c)),
        Item(TEXTS[4], ()),
        Item(None, (b, c)),
        Item("https://127.0.0.1:9/picture.png", (c,)),
        Item(None, (a,)),
        Item("", ()),
    ]


def encoder(folder: Path, **options: object) -> MultimodalEncoder:
    spec = EncoderSpec(kind="multimodal", model=str(folder), dtype="float32")
    ours = load.load(spec.model_copy(update=options))
    assert isinstance(ours, MultimodalEncoder)
    return ours


def message_of(item: Item) -> dict[str, object]:
    parts = {"image": list(item.pictures), "text": item.text}
    return {name: part for name, part in parts.items() if part not in ([], None)}


def of_message(model: SentenceTransformer, item: Item, **options: object) -> np.ndarray:
    return model.encode([message_of(item)], normalize_embeddings=True, show_progress_bar=False, **options)[0]


def of_parts(model: SentenceTransformer, item: Item) -> np.ndarray:
    """By the definition: the mean of the text's direction and the pictures' mean direction, of length 1."""

    def direction(vectors: np.ndarray) -> np.ndarray:
        mean = vectors.mean(axis=0)
        return mean / np.linalg.norm(mean)

    kinds = [[{"text": item.text}] if item.text is not None else [], list(item.pictures)]
    encoded = [model.encode(kind, normalize_embeddings=True, show_progress_bar=False) for kind in kinds if kind]
    return direction(np.stack([direction(vectors) for vectors in encoded]))


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_model_that_reads_messages_gives_the_librarys_vector_of_all_parts_together(
    reader: tuple[SentenceTransformer, Path], items: list[Item], batch_size: int
) -> None:
    ours = encoder(reader[1], batch_size=batch_size)
    expected = np.stack([of_message(reader[0], item) for item in items])
    for order in (range(len(items)), range(len(items))[::-1]):
        actual = ours.encode(ours.preprocess([items[i] for i in order]))
        np.testing.assert_allclose(actual, expected[list(order)], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_model_of_two_towers_gives_the_mean_of_the_texts_and_the_pictures_direction(
    clip: tuple[SentenceTransformer, Path], items: list[Item], batch_size: int
) -> None:
    ours = encoder(clip[1], batch_size=batch_size)
    expected = np.stack([of_parts(clip[0], item) for item in items])
    for order in (range(len(items)), range(len(items))[::-1]):
        actual = ours.encode(ours.preprocess([items[i] for i in order]))
        np.testing.assert_allclose(actual, expected[list(order)], atol=1e-5)


def test_the_order_of_the_pictures_and_every_part_count(
    reader: tuple[SentenceTransformer, Path], items: list[Item]
) -> None:
    ours, every = encoder(reader[1]), items[1].pictures
    variants = [Item("a mug", every), Item("a mug", every[::-1]), Item("a mug", every[:2]), Item("a lamp", every)]
    vectors = ours.encode(ours.preprocess(variants))
    assert (vectors @ vectors.T)[np.triu_indices(4, 1)].max() < 1 - 1e-6


def test_a_prompt_a_cut_and_a_longest_text_are_those_of_the_library(
    reader: tuple[SentenceTransformer, Path], items: list[Item]
) -> None:
    ours = encoder(reader[1], prompt="Represent the product.", truncate_dim=16, max_tokens=120)
    assert ours.dim == 16
    theirs = SentenceTransformer(str(reader[1]), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"})
    theirs.max_seq_length = 120
    some = [items[0], items[2], items[5]]
    expected = [of_message(theirs, item, prompt="Represent the product.", truncate_dim=16) for item in some]
    np.testing.assert_allclose(ours.encode(ours.preprocess(some)), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("pictures", [1, 2])
def test_exactly_the_messages_of_more_tokens_than_the_limit_are_cut(
    reader: tuple[SentenceTransformer, Path], items: list[Item], pictures: int
) -> None:
    several = [Item(" ".join(["mug"] * count), items[1].pictures[:pictures]) for count in (1, 9, 10, 11, 40)]
    limit = int(reader[0].preprocess([message_of(several[2])])["attention_mask"].sum())
    ours = encoder(reader[1], max_tokens=limit, batch_size=2)
    for _ in range(2):
        assert ours.cut(several, ours.preprocess(several)) == [False, False, False, True, True]
    expected = [of_message(reader[0], item) for item in several[:3]]
    np.testing.assert_allclose(ours.encode(ours.preprocess(several[:3])), np.stack(expected), atol=1e-5)


def test_exactly_the_texts_of_more_tokens_than_a_tower_reads_are_cut(
    clip: tuple[SentenceTransformer, Path], items: list[Item]
) -> None:
    ours = encoder(clip[1], max_tokens=12)
    several = [Item(" ".join(["mug"] * count), items[1].pictures) for count in (1, 10, 11)]  # and two special tokens
    several.append(Item(None, items[1].pictures))
    assert ours.cut(several, ours.preprocess(several)) == [False, False, True, False]


def test_texts_are_measured_while_no_other_thread_tokenizes(
    clip: tuple[SentenceTransformer, Path], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = encoder(clip[1])
    measured, calls = multimodal.longer_than_read, []

    def watched(*arguments: Any) -> list[bool]:
        calls.append(ours._tokenizing.locked())
        return measured(*arguments)

    monkeypatch.setattr(multimodal, "longer_than_read", watched)
    ours.cut(items, ours.preprocess(items))
    assert calls == [True]


def test_bfloat16_keeps_the_direction(reader: tuple[SentenceTransformer, Path], items: list[Item]) -> None:
    exact, fast = (encoder(reader[1], dtype=dtype) for dtype in ("float32", "bfloat16"))
    cosines = (exact.encode(exact.preprocess(items)) * fast.encode(fast.preprocess(items))).sum(axis=1)
    assert cosines.min() > 0.99


def test_an_item_that_the_model_does_not_take_is_a_value_error(
    reader: tuple[SentenceTransformer, Path], items: list[Item]
) -> None:
    ours = encoder(reader[1])
    for item in (Item(None, items[1].pictures * 3), Item("its mark for a picture: <image>", items[0].pictures)):
        with pytest.raises(ValueError, match="image"):
            ours.preprocess([items[0], item])


def test_a_model_that_reads_texts_alone_is_refused() -> None:
    with pytest.raises(UserError, match=r"'offline:minilm' is not multimodal: it reads no image, only text"):
        load.load(EncoderSpec(kind="multimodal", model="offline:minilm"))


@pytest.mark.slow
def test_several_devices_give_the_vectors_of_one(
    reader: tuple[SentenceTransformer, Path], items: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = encoder(reader[1], batch_size=2)
    monkeypatch.setenv("CM3_DEVICE", "cpu,cpu")
    monkeypatch.setattr("multiprocessing.get_context", lambda _: CONTEXT)  # test_many_devices.py has a new process
    both = load.load(EncoderSpec(kind="multimodal", model=str(reader[1]), dtype="float32", batch_size=2))
    assert isinstance(both, ManyDevices)
    np.testing.assert_allclose(both.encode(both.preprocess(items)), alone.encode(alone.preprocess(items)), atol=1e-6)
