"""A stand-in for CLIP where no hub is reachable: an open_clip model assembled, without training, from two towers.

Vision: EfficientNet-Lite0. Its ImageNet classifier W, b is mapped into MiniLM's space by the embeddings C of the class
names ("a photo of a tench"), centred on their mean: head = Cᵀ W, Cᵀ b, so a picture lies near the names of what it
shows. Text: MiniLM with mean pooling. It knows 1,000 classes and no more; real CLIP is the default.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from timm.data import ImageNetInfo  # type: ignore[attr-defined]  # not in its __all__
from torch import Tensor

WIDTH = 384
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def build(vision: Path, text: Path, folder: Path) -> None:
    """Write an open_clip model folder from a timm folder (`vision`) and a sentence-transformers folder (`text`)."""
    for name in TOKENIZER_FILES:
        shutil.copy(text / name, folder / name)
    config = _config()
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    model_config: dict[str, Any] = config["model_cfg"]
    text_config = {**model_config["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}
    model = open_clip.model.CustomTextCLIP(**{**model_config, "text_cfg": text_config})

    trunk = load_file(vision / "model.safetensors")
    names = class_name_embeddings(text).T
    for part in ("classifier.weight", "classifier.bias"):
        trunk[part] = _rounded(names @ trunk[part].double())
    model.visual.trunk.load_state_dict(trunk)
    unused = ("pooler.", "embeddings.position_ids")
    words = {key: value for key, value in load_file(text / "model.safetensors").items() if not key.startswith(unused)}
    model.text.transformer.load_state_dict(words)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def class_name_embeddings(text: Path) -> Tensor:
    """MiniLM's embedding of each ImageNet class name, centred and scaled to length 1; (1000, 384), float64."""
    info = ImageNetInfo()
    names = [info.index_to_description(index).split(",")[0] for index in range(1000)]
    model = SentenceTransformer(str(text), device="cpu", local_files_only=True)
    prompts = [f"a photo of a {name}" for name in names]
    embeddings = model.encode(prompts, convert_to_tensor=True, show_progress_bar=False).double()
    return torch.nn.functional.normalize(embeddings - embeddings.mean(0), dim=-1)


def _rounded(weights: Tensor) -> Tensor:
    """Rounded to float16, so that another order of summation rarely gives other weights, hence another fingerprint."""
    return weights.half().float()


def _config() -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": WIDTH,
            "vision_cfg": {
                "timm_model_name": "tf_efficientnet_lite0",
                "timm_pool": "avg",
                "timm_proj": "",
                "image_size": 224,
            },
            "text_cfg": {
                "hf_model_name": "sentence-transformers/all-MiniLM-L6-v2",
                "hf_tokenizer_name": "sentence-transformers/all-MiniLM-L6-v2",
                "hf_pooler_type": "mean_pooler",
                "context_length": 128,
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
