"""A model's licence is known with what it made, and one that forbids commercial use is accepted first."""

import json
from pathlib import Path

import pytest

from pipeline import features
from pipeline.captions import load as captions
from pipeline.encoders import load
from pipeline.store import Store
from schemas.encoders import PRESETS, CaptionSpec
from schemas.errors import UserError
from tests.support.published import jpeg, publish_images
from tests.support.real_models import copy_model, timm_at


def carded(folder: Path, head: str) -> Path:
    """A model whose card begins so."""
    model = copy_model(folder)
    (model / "README.md").write_text(f"---\n{head}\n---\n# A model\n")
    return model


def test_the_cards_licence_is_in_the_lineage_and_no_part_of_what_identifies_the_vectors(
    tmp_path: Path, store: Store
) -> None:
    spec = timm_at(carded(tmp_path, "license: apache-2.0\ntags: [vision]"))
    images = publish_images(store, [("a", jpeg((200, 0, 0)))])
    table = features.run(store=store, source=images, name="vision", spec=spec).tables["features/vision"]
    assert table.lineage["cm3.license"] == "apache-2.0"
    assert "license" not in json.loads(table.lineage["cm3.config"])
    plain = timm_at(copy_model(tmp_path / "plain"))
    assert load.fingerprint(plain).license == ""
    assert load.fingerprint(plain).key() == load.fingerprint(spec).key()


@pytest.mark.parametrize(
    "head",
    [
        "license: cc-by-nc-4.0",
        "license: other\nlicense_name: example-research-only",
        "license: other\nlicense_name: Non-Commercial License",
        "license: cc-by-nc-sa-4.0",
        "license: other\nlicense_name: qwen-research",
        "license: apple-amlr",
    ],
)
def test_a_licence_that_forbids_commercial_use_must_be_accepted(tmp_path: Path, head: str) -> None:
    spec = timm_at(carded(tmp_path, head))
    with pytest.raises(UserError, match=r"forbids commercial use.*accept_license: true"):
        load.fingerprint(spec)
    accepted = load.fingerprint(spec.model_copy(update={"accept_license": True}))
    assert accepted.license.startswith(head.split(": ")[1].split("\n")[0])


@pytest.mark.parametrize("name", ["apache-2.0", "mit", "cc-by-4.0", "openrail", "bsd-3-clause", "gemma", "apple-ascl"])
def test_other_licences_need_no_word(tmp_path: Path, name: str) -> None:
    assert load.fingerprint(timm_at(carded(tmp_path, f"license: {name}"))).license == name


def test_what_the_spec_says_counts_where_no_card_does_and_for_endpoints() -> None:
    endpoint = {"kind": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    assert captions.fingerprint(CaptionSpec(**endpoint, license="mit")).license == "mit"
    with pytest.raises(UserError, match="accept_license"):
        captions.fingerprint(CaptionSpec(**endpoint, license="CC BY-NC 4.0"))


def test_the_specs_own_word_counts_beside_the_cards(tmp_path: Path) -> None:
    spec = timm_at(carded(tmp_path, "license: mit")).model_copy(update={"license": "cc-by-nc-4.0"})
    with pytest.raises(UserError, match=r"has the licence 'cc-by-nc-4\.0', which forbids"):
        load.fingerprint(spec)


def test_a_card_that_is_none_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"README\.md: expected a model card"):
        load.fingerprint(timm_at(carded(tmp_path, "license: [a")))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_names_its_models_licences(name: str) -> None:
    for spec in [*PRESETS[name].encoders.values(), PRESETS[name].captioner]:
        assert spec.license in ("apache-2.0", "mit")
        assert not spec.accept_license
