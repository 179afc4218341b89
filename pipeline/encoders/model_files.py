"""From a model's name to a checked local folder: offline packages, a folder, or a pinned snapshot of the hub.

Weights are read as safetensors only, so reading them runs no code.
"""

import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from pipeline import consent
from pipeline.encoders import licences, offline
from pipeline.encoders.base import Fingerprint
from pipeline.store import Store
from schemas.encoders import ModelSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.gz")
"""Configuration, tokenizers and chat templates: read whole, hashed with the weights."""
SAFETENSORS = ("*.safetensors",)
"""Weights, unless a kind of encoder says which of these it reads."""
CODE = ("*.py",)
"""A model's own Python code: fetched and hashed only where it may run."""
_CODE_ELSEWHERE = re.compile(r'"auto_map"[^}]*?"([^"]+--[^"]+)"')
"""`owner/name--module.Class` in a configuration: transformers would fetch it, whatever is there today."""
IGNORED = ("onnx/*", "openvino/*", ".cache/*", ".git*")


def locate(spec: ModelSpec, weights: Sequence[str] = SAFETENSORS) -> Path:
    """Local folder of the model's files, fetched or unpacked if needed, and checked.

    Args:
        weights: patterns of the files that hold its weights.

    Raises:
        UserError: the model cannot be reached or does not exist, one of its files is missing or damaged, or it wants to
            run code of its own and the operator did not consent.
    """
    consent.check_hub()
    consent.check_remote_code(spec)
    if spec.model.startswith("offline:"):
        folder = offline.unpack(spec.model.removeprefix("offline:"))
    elif spec.revision:
        folder = _snapshot(spec, weights)
    else:
        folder = Path(spec.model).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"Model {spec.model!r}: expected a folder with the model's files, a hub repository with its revision, "
                f"or one of {', '.join(f'offline:{name}' for name in offline.MODELS)}; found nothing there."
            )
    check(folder, weights, spec.model)
    if spec.trust_remote_code:
        check_code(folder, spec.model)
    return folder


def check_code(folder: Path, name: str) -> None:
    """Refuse a model that is said to have code, unless all of it lies among its own files, where the commit pins it.

    Raises:
        UserError: it has none, or names another repository's.
    """
    if not any(_matching(folder, CODE)):
        raise UserError(
            f"Model {name!r}: trust_remote_code is set, but {folder} holds no code of its own; leave it out."
        )
    for path in _matching(folder, ("*config.json",)):
        elsewhere = _CODE_ELSEWHERE.search(path.read_text(encoding="utf-8", errors="replace"))
        if elsewhere is not None:
            raise UserError(
                f"Model {name!r}: {path.name} runs {elsewhere[1]!r}, the code of a repository that no commit pins. "
                "Copy the model with that code into a folder, leave the repository's name out, and name the folder."
            )


def check(folder: Path, weights: Sequence[str], name: str) -> None:
    """Read the header of every weight file, and every index, before anything is loaded.

    Raises:
        UserError: there are no safetensors, one is cut short or damaged, or one that an index names is missing.
    """
    files = list(_matching(folder, weights))
    if not files:
        others = ", ".join(sorted(path.name for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pth"}))
        raise UserError(
            f"Model {name!r} in {folder} has no {' or '.join(weights)} file"
            + (f", only {others}, which could run code when loaded" if others else "")
            + ". Choose a revision with safetensors, or convert the weights with safetensors.torch.save_file."
        )
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            is_own_folder = Path(name).expanduser().is_dir()
            mend = "write it again" if is_own_folder else f"delete {folder} and run again to fetch or unpack it anew"
            raise UserError(
                f"Model {name!r}: {path} is not a whole safetensors file ({error}): cut short or changed; {mend}."
            ) from error
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = {str(shard) for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(
                f"Model {name!r}: {index} is not an index of safetensors (expected JSON with weight_map; "
                f"{type(error).__name__}: {error}): cut short or changed. Fetch it again."
            ) from error
        if missing := sorted(shard for shard in named if not (folder / shard).exists()):
            raise UserError(
                f"Model {name!r}: {index.name} names {', '.join(missing)}, missing in {folder}. Fetch them again."
            )


def content_hash(folder: Path, weights: Sequence[str] = SAFETENSORS, *, code: bool = False) -> str:
    """SHA-256 (hex) over the relative names and contents of all files that decide the model's results.

    Args:
        code: whether its own Python code may run, and so is one of them.
    """
    sha = hashlib.sha256()
    patterns = (weights, SMALL_FILES, CODE) if code else (weights, SMALL_FILES)
    for path in sorted(path for kind in patterns for path in _matching(folder, kind)):
        stat = path.stat()
        digest = _file_hash(path, stat.st_size, stat.st_mtime_ns)
        sha.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode())
    return sha.hexdigest()


@functools.cache
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - part of the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matching(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        is_match = any(fnmatch(path.name, pattern) for pattern in patterns)
        if is_match and path.is_file() and not any(fnmatch(name, pattern) for pattern in IGNORED):
            yield path


def recorded(store: Store, stage: str, spec: ModelSpec, options: Mapping[str, Any], code: int) -> Fingerprint | None:
    """The fingerprint under which a stage last kept results of a model; None if it kept none.

    A folder's files are compared; a revision or an offline model's name stands for its files. Where `dtype` is `auto`,
    it is what the machine of that run chose.
    """
    folder = Path(spec.model).expanduser()
    weights = (
        content_hash(folder, code=spec.trust_remote_code)
        if not spec.model.startswith("offline:") and folder.is_dir()
        else None
    )
    matches = []
    for path in store.fs.glob(f"{store.root}/_cache/{stage}/*/encoder.json"):
        try:
            identity = Fingerprint.model_validate(json.loads(store.fs.cat_file(path))["encoder"])
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is damaged; left out. The next run writes it anew", path)
            continue
        same = (identity.model, identity.options, identity.code) == (spec.model, dict(options), code)
        pinned = spec.revision in ("", identity.revision) and weights in (None, identity.weights)
        if same and pinned and spec.dtype in ("auto", identity.dtype):
            matches.append((store.fs.modified(path), identity))
    return max(matches, key=lambda match: match[0])[1] if matches else None


def _snapshot(spec: ModelSpec, weights: Sequence[str]) -> Path:
    """The pinned revision from the local hub cache; fetched first unless the cache holds all of it."""
    import huggingface_hub  # half a second to import, and only models of the hub need it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [*SMALL_FILES, *weights, licences.CARD, *(CODE if spec.trust_remote_code else ())]
    fetch = functools.partial(
        huggingface_hub.snapshot_download,
        spec.model,
        revision=spec.revision,
        allow_patterns=patterns,
        ignore_patterns=list(IGNORED),
    )
    try:
        folder = Path(fetch(local_files_only=True))
        check(folder, weights, spec.model)
        if spec.trust_remote_code:
            check_code(folder, spec.model)
        return folder
    except (LocalEntryNotFoundError, UserError):
        pass  # absent or half fetched: ask the hub
    try:
        return Path(fetch())
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"Model {spec.model!r} at revision {spec.revision} is not in the local hub cache and could not be fetched "
            f"({reason}). Check the name, the network and HF_HUB_OFFLINE; without a hub, run with models=offline."
        ) from error
