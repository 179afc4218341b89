"""Real models through the adapters: against the libraries themselves, whatever their neighbours, in both dtypes."""

import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding

from pipeline.encoders import load, offline
from pipeline.encoders.base import ImageEncoder, TextEncoder
from pipeline.encoders.sentence import SentenceEncoder
from pipeline.machine import native_bfloat16
from schemas.encoders import PRESETS, EncoderSpec
from schemas.errors import UserError

PRESET = PRESETS["offline"].encoders
TEXTS = [
    "a red striped mug",
    "Gift card for a very long list of reasons, " * 30,
    "",
    "x",
    "A lamp that Öttingen's grandmother would have liked — 40 cm, E27, 中文",
    "a blue mug",
]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def encoder(spec: EncoderSpec, **options: object) -> TextEncoder | ImageEncoder:
    return load.load(spec.model_copy(update=options))


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformer:
    return SentenceTransformer(str(offline.unpack("minilm")), device="cpu", local_files_only=True)


def test_sentence_vectors_are_those_of_sentence_transformers(minilm: SentenceTransformer) -> None:
    ours = encoder(PRESET["sentence"], dtype="float32")
    assert isinstance(ours, TextEncoder)
    theirs = minilm.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs, atol=2e-6)


def test_a_prompt_and_a_cut_are_those_of_sentence_transformers(minilm: SentenceTransformer) -> None:
    ours = encoder(PRESET["sentence"], dtype="float32", prompt="product: ", truncate_dim=64)
    assert isinstance(ours, TextEncoder)
    assert ours.dim == 64
    theirs = minilm.encode(
        TEXTS, prompt="product: ", truncate_dim=64, normalize_embeddings=True, show_progress_bar=False
    )
    np.testing.assert_allclose(ours.encode(TEXTS), theirs, atol=2e-6)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_text_keeps_its_own_tokens_whichever_side_is_padded(minilm: SentenceTransformer, side: str) -> None:
    ours = encoder(PRESET["sentence"], batch_tokens=128)
    assert isinstance(ours, SentenceEncoder)
    ours._model.tokenizer.padding_side = side
    found = {}
    for places, features in ours.tokenized([*TEXTS, *TEXTS[:3]]):
        width = int(features["attention_mask"].sum(dim=1).max())
        assert features["input_ids"].shape == (len(places), width), "no batch is wider than its longest text"
        for place, ids, mask in zip(places, features["input_ids"], features["attention_mask"], strict=True):
            found[place] = ids[mask == 1].tolist()
            assert set(ids[mask == 0].tolist()) <= {minilm.tokenizer.pad_token_id}
    longest = minilm.max_seq_length
    assert [found[i] for i in range(len(found))] == [
        minilm.tokenizer(text, truncation=True, max_length=longest)["input_ids"] for text in [*TEXTS, *TEXTS[:3]]
    ]


def test_a_table_of_word_vectors_is_a_model_too(minilm: SentenceTransformer, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((minilm.tokenizer.vocab_size, 16)).astype(np.float32)
    static = SentenceTransformer(modules=[StaticEmbedding(minilm.tokenizer, embedding_weights=weights)], device="cpu")
    static.save_pretrained(str(tmp_path / "static"))
    ours = encoder(PRESET["sentence"], model=str(tmp_path / "static"), revision=None)
    assert isinstance(ours, TextEncoder)
    theirs = static.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs, atol=2e-6)


def test_vision_vectors_are_those_of_timm(drawings: list[bytes]) -> None:
    ours = encoder(PRESET["vision"], dtype="float32")
    assert isinstance(ours, ImageEncoder)
    model = timm.create_model(
        f"local-dir:{offline.unpack('efficientnet-lite0')}", pretrained=True, num_classes=0
    ).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.inference_mode():
        theirs = model(torch.stack([transform(Image.open(io.BytesIO(d)).convert("RGB")) for d in drawings])).numpy()
    found = ours.encode([ours.preprocess(d) for d in drawings])
    assert found.shape == (len(drawings), 1280)
    assert cosines(found, theirs).min() > 1 - 1e-6


def test_clip_vectors_of_both_towers_are_those_of_open_clip(drawings: list[bytes], tmp_path: Path) -> None:
    folder = offline.unpack("clip-stand-in")
    eyes = encoder(PRESET["clip"], dtype="float32")
    words = encoder(PRESET["clip"], dtype="float32", kind="open_clip_text")
    assert isinstance(eyes, ImageEncoder)
    assert isinstance(words, TextEncoder)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    model, transform = open_clip.create_model_from_pretrained(
        f"local-dir:{folder}", text_cfg={**config, "hf_model_name": str(folder), "hf_model_pretrained": False}
    )
    model.eval()
    with torch.inference_mode():
        pictures = torch.stack([transform(Image.open(io.BytesIO(d)).convert("RGB")) for d in drawings])
        theirs = model.encode_image(pictures, normalize=True).numpy()
        said = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS[:2]), normalize=True).numpy()
    np.testing.assert_allclose(eyes.encode([eyes.preprocess(d) for d in drawings]), theirs, atol=1e-5)
    np.testing.assert_allclose(words.encode(TEXTS[:2]), said, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_has_the_same_vector_whatever_its_neighbours(dtype: str) -> None:
    model = encoder(PRESET["sentence"], dtype=dtype, batch_tokens=128)
    assert isinstance(model, TextEncoder)
    alone = np.concatenate([model.encode([text]) for text in TEXTS])
    among = model.encode([*TEXTS, *(f"neighbour {i} " * i for i in range(12))])[: len(TEXTS)]
    backwards = model.encode(TEXTS[::-1])[::-1]
    assert cosines(alone, among).min() > 1 - 1e-5
    assert cosines(alone, backwards).min() > 1 - 1e-5


@pytest.mark.parametrize("feature", ["clip", "vision"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_picture_has_the_same_vector_whatever_its_neighbours(feature: str, dtype: str, drawings: list[bytes]) -> None:
    model = encoder(PRESET[feature], dtype=dtype)
    assert isinstance(model, ImageEncoder)
    pixels = [model.preprocess(d) for d in drawings]
    alone = np.concatenate([model.encode([p]) for p in pixels])
    assert cosines(alone, model.encode(pixels)).min() > 1 - 1e-5


@pytest.mark.parametrize("feature", ["sentence", "clip", "vision"])
def test_bfloat16_keeps_the_direction_of_float32_and_unit_length(feature: str, drawings: list[bytes]) -> None:
    found = []
    for dtype in ("float32", "bfloat16"):
        model = encoder(PRESET[feature], dtype=dtype)
        if isinstance(model, ImageEncoder):
            found.append(model.encode([model.preprocess(d) for d in drawings]))
        else:
            found.append(model.encode(TEXTS))
    exact, fast = found
    assert fast.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(fast, axis=1), 1, atol=1e-6)
    assert np.array_equal(exact, fast) != native_bfloat16(), "bfloat16 is used where the processor has it"
    assert cosines(exact, fast).min() > 0.999


def test_a_transformers_clip_model_gives_the_librarys_vectors(tmp_path: Path, drawings: list[bytes]) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = load_tokenizer()
    text = small | {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "eos_token_id": tokenizer.sep_token_id}
    config = CLIPConfig(vision_config=small | {"image_size": 64, "patch_size": 16}, text_config=text, projection_dim=24)
    model = CLIPModel(config).eval()
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    processor = CLIPProcessor(image_processor=CLIPImageProcessor(**size), tokenizer=tokenizer)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    spec = EncoderSpec(kind="transformers_clip", model=str(tmp_path), dtype="float32", normalize=False)
    eyes, words = encoder(spec), encoder(spec, kind="transformers_clip_text", batch_tokens=16)
    assert isinstance(eyes, ImageEncoder)
    assert isinstance(words, TextEncoder)
    assert eyes.dim == words.dim == 24
    inputs = processor(
        text=TEXTS[:1] + TEXTS[3:4],
        images=[Image.open(io.BytesIO(d)) for d in drawings],
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        seen = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output.numpy()
        read = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output.numpy()
    np.testing.assert_allclose(eyes.encode([eyes.preprocess(d) for d in drawings]), seen, atol=1e-5)
    np.testing.assert_allclose(words.encode(TEXTS[:1] + TEXTS[3:4]), read, atol=1e-5)


def load_tokenizer():  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(offline.unpack("minilm"))


def test_more_dimensions_than_a_model_has_are_refused() -> None:
    with pytest.raises(UserError, match=r"truncate_dim 5000: vectors of 'offline:minilm' have 384 numbers"):
        encoder(PRESET["sentence"], truncate_dim=5000)
