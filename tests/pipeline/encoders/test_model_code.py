"""A model's own Python code: fetched, pinned and hashed with its weights, and run only with the operator's consent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer

from pipeline import consent
from pipeline.encoders import load, offline
from pipeline.encoders.sentence import SentenceEncoder
from schemas.encoders import EncoderSpec
from schemas.errors import UserError
from tests.conftest import ROOT
from tests.support.hub import Hub

COMMIT = "ab" * 20
NEGATE = """
from torch import nn


class Negate(nn.Module):
    def forward(self, features):
        features["sentence_embedding"] = -features["sentence_embedding"]
        return features

    @classmethod
    def load(cls, *args, **kwargs):
        return cls()
"""


def tiny(folder: Path, code: str = NEGATE) -> Path:
    """A sentence-transformers model of 8 numbers, whose last module is in the model's own code."""
    words = StaticEmbedding(Tokenizer.from_file(str(offline.unpack("minilm") / "tokenizer.json")), embedding_dim=8)
    SentenceTransformer(modules=[words]).save(str(folder))
    modules = json.loads((folder / "modules.json").read_text())
    own = {"idx": 1, "name": "1", "path": "", "type": "negate.Negate"}
    (folder / "modules.json").write_text(json.dumps([*modules, own]))
    (folder / "negate.py").write_text(code)
    return folder


def spec_of(folder: Path, **options: object) -> EncoderSpec:
    return EncoderSpec(kind="sentence", model=str(folder), trust_remote_code=True, dtype="float32", **options)  # type: ignore[arg-type]


def test_with_consent_the_code_runs_and_is_part_of_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(tmp_path / "model")
    with pytest.raises(UserError, match="has not consented"):
        load.load(spec_of(folder))
    monkeypatch.setenv(consent.REMOTE_CODE, str(folder))
    encoder = load.load(spec_of(folder))
    assert isinstance(encoder, SentenceEncoder)
    plain = SentenceTransformer(modules=[next(iter(encoder._model))])
    theirs = plain.encode(["a red mug"], normalize_embeddings=True, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(["a red mug"]), -theirs, atol=1e-6)
    before = load.fingerprint(spec_of(folder)).key()
    (folder / "negate.py").write_text(NEGATE.replace("-features", "2 * features"))
    assert load.fingerprint(spec_of(folder)).key() != before


def test_without_trust_such_a_model_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "model", f"open({str(tmp_path / 'ran')!r}, 'w')\n{NEGATE}")
    with pytest.raises(UserError, match="could not be loaded as 'sentence'"):
        load.load(EncoderSpec(kind="sentence", model=str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
@pytest.mark.parametrize("is_trusted", [True, False])
def test_of_a_hub_model_the_code_is_fetched_at_its_commit_and_only_with_consent(
    tmp_path: Path, *, is_trusted: bool
) -> None:
    folder = tiny(tmp_path / "model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    hub = Hub(folder, COMMIT)
    fields = {"kind": "sentence", "model": "owner/name", "revision": COMMIT, "trust_remote_code": is_trusted}
    script = (
        "import sys; from pipeline.encoders import load; from schemas.encoders import EncoderSpec; "
        "print(load.fingerprint(EncoderSpec.model_validate_json(sys.argv[1])).license)"
    )
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(ROOT),
        consent.REMOTE_CODE: f"owner/name@{COMMIT}" if is_trusted else "",
    }
    command = [sys.executable, "-c", script, json.dumps(fields)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert (process.returncode, process.stdout.strip()) == (0, "mit"), process.stderr[-2000:]
    assert ("negate.py" in hub.fetched) == is_trusted
    hub.shutdown()
    hub.server_close()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, "the cache has all of it"


def test_code_of_another_repository_is_refused_as_no_commit_pins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(tmp_path / "model")
    (folder / "config.json").write_text('{"auto_map": {"AutoConfig": "c.C", "AutoModel": "owner/other--m.Model"}}')
    monkeypatch.setenv(consent.REMOTE_CODE, str(folder))
    with pytest.raises(UserError, match=r"runs 'owner/other--m\.Model', the code of a repository that no commit pins"):
        load.fingerprint(spec_of(folder))


def test_trust_in_a_model_without_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny(tmp_path / "model")
    (folder / "negate.py").unlink()
    monkeypatch.setenv(consent.REMOTE_CODE, str(folder))
    with pytest.raises(UserError, match="holds no code of its own; leave it out"):
        load.fingerprint(spec_of(folder))
