"""Trust: safetensors alone, pinned revisions, and a missing or damaged model that fails before the first item."""

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pipeline import machine
from pipeline.encoders import load, model_files, offline
from schemas.encoders import PRESETS, EncoderSpec
from schemas.errors import UserError

REVISION = "0" * 40


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A timm model folder of one's own."""
    return Path(shutil.copytree(offline.unpack("efficientnet-lite0"), tmp_path / "model"))


def timm_at(folder: Path) -> EncoderSpec:
    return EncoderSpec(kind="timm", model=str(folder))


def test_a_cut_weight_file_is_refused_before_anything_is_loaded(copied: Path) -> None:
    with (copied / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    with pytest.raises(UserError, match="not a whole safetensors file") as raised:
        load.fingerprint(timm_at(copied))
    assert "cut short or changed; write it again" in str(raised.value)


def test_pickled_weights_are_never_read(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model\.bin, which could run code"):
        load.fingerprint(timm_at(copied))


def test_a_shard_that_the_index_names_must_be_there(copied: Path) -> None:
    (copied / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002.safetensors"}}')
    with pytest.raises(UserError, match=r"names model-00002\.safetensors, missing"):
        load.fingerprint(timm_at(copied))


def test_a_folder_that_is_not_there_names_the_choices() -> None:
    with pytest.raises(UserError, match="offline:minilm"):
        load.fingerprint(timm_at(Path("/no/such/folder")))


def test_a_model_of_another_kind_is_a_clear_error() -> None:
    with pytest.raises(UserError, match="could not be loaded as 'timm'"):
        load.load(timm_at(offline.unpack("minilm")))


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
    assert model_files.locate(spec, "timm") == snapshot
    assert load.fingerprint(spec).key() == load.fingerprint(PRESETS["offline"].encoders["vision"]).key()
    assert load.fingerprint(spec).revision == REVISION


def test_a_hub_model_without_its_commit_is_refused() -> None:
    with pytest.raises(ValidationError, match="40 hex digits, found 'main'"):
        EncoderSpec(kind="timm", model="timm/lite0", revision="main")


@pytest.mark.parametrize("model", ["offline:minilm", "./models/mine", "/models/mine"])
def test_a_revision_of_what_has_none_is_refused(model: str) -> None:
    with pytest.raises(ValidationError, match="has none but its own weights"):
        EncoderSpec(kind="sentence", model=model, revision="deadbeef")


@pytest.mark.parametrize("preset", ["default", "offline"])
def test_no_preset_trusts_code_and_every_hub_model_is_pinned(preset: str) -> None:
    for spec in [*PRESETS[preset].encoders.values(), PRESETS[preset].captioner]:
        assert not spec.trust_remote_code
        assert spec.model.startswith("offline:") or len(spec.revision) == 40
    assert set(PRESETS[preset].encoders) == {"sentence", "clip", "vision", "caption"}


def test_the_fingerprint_follows_contents_and_options_and_not_the_path(copied: Path) -> None:
    original = load.fingerprint(PRESETS["offline"].encoders["vision"])
    assert load.fingerprint(timm_at(copied)).key() == original.key()
    assert load.fingerprint(timm_at(copied).model_copy(update={"batch_size": 2})).key() == original.key()
    for change in ({"normalize": False}, {"image_size": 128}, {"dtype": "float32"}):
        changed = load.fingerprint(timm_at(copied).model_copy(update=change))
        assert (changed.key() == original.key()) == (change == {"dtype": original.dtype})
    config = copied / "config.json"
    config.write_text(config.read_text().replace("0.875", "0.9"))
    assert load.fingerprint(timm_at(copied)).key() != original.key(), "preprocessing counts"


def test_one_setting_overrides_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CM3_THREADS", "3")
    assert machine.threads.__wrapped__() == 3
    monkeypatch.setenv("CM3_THREADS", "many")
    with pytest.raises(UserError, match=r"CM3_THREADS .* found 'many'"):
        machine.threads.__wrapped__()
    monkeypatch.delenv("CM3_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.threads.__wrapped__() == 1
