"""From a spec to its fingerprint (cheap) and to the encoder itself (which reads the weights)."""

import logging
import time
from pathlib import Path

from pipeline.encoders import model_files
from pipeline.encoders.base import Fingerprint, ImageEncoder, TextEncoder
from pipeline.machine import devices, resolve_dtype, use_threads
from schemas.encoders import EncoderSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)

CODE = {
    "sentence": 1,
    "open_clip": 1,
    "open_clip_text": 1,
    "timm": 1,
    "transformers_clip": 1,
    "transformers_clip_text": 1,
    "transformers": 1,
    "endpoint": 1,
}
"""Version of each adapter; raise it when the same model would give other vectors or captions."""


def fingerprint(spec: EncoderSpec) -> Fingerprint:
    """What identifies the vectors of `spec` on this machine; fetches or unpacks the files, loads nothing.

    Raises:
        UserError: the model is missing, damaged or not reachable.
    """
    folder = model_files.locate(spec, spec.kind)
    content = model_files.content_hash(folder, spec.kind)
    return Fingerprint(
        kind=spec.kind,
        model=spec.model,
        revision=spec.revision or content[:16],
        weights=content,
        options=spec.model_dump(include={"prompt", "truncate_dim", "max_tokens", "image_size", "normalize"}),
        dtype=resolve_dtype(spec.dtype),
        code=CODE[spec.kind],
    )


def load(spec: EncoderSpec) -> TextEncoder | ImageEncoder:
    """The encoder, ready to use.

    Raises:
        UserError: the model is missing, damaged, or not of the kind the spec says, or has fewer dimensions.
    """
    use_threads()
    quiet_libraries()
    folder = model_files.locate(spec, spec.kind)
    identity = fingerprint(spec)
    started = time.monotonic()
    try:
        encoder = _adapter(spec, folder, identity)
    except UserError:
        raise
    except Exception as error:  # libraries raise every type there is for a model that does not fit
        raise UserError(
            f"Model {spec.model!r} in {folder} could not be loaded as {spec.kind!r}: {type(error).__name__}: {error}. "
            "Check that the kind fits the model; if its files were changed, delete the folder and run again."
        ) from error
    if spec.truncate_dim and spec.truncate_dim > encoder.dim:
        raise UserError(
            f"truncate_dim {spec.truncate_dim}: vectors of {spec.model!r} have {encoder.dim} numbers. Choose fewer, or "
            "leave it out."
        )
    if others := devices()[1:]:
        from pipeline.encoders.many_devices import ManyDevices

        encoder = ManyDevices(encoder, spec, others)
    logger.info("loaded %s (%s, %s) in %.1f s", spec.model, spec.kind, identity.dtype, time.monotonic() - started)
    return encoder


def _adapter(spec: EncoderSpec, folder: Path, identity: Fingerprint) -> TextEncoder | ImageEncoder:
    if spec.kind == "sentence":
        from pipeline.encoders.sentence import SentenceEncoder

        return SentenceEncoder(spec, folder, identity)
    if spec.kind == "timm":
        from pipeline.encoders.timm import TimmEncoder

        return TimmEncoder(spec, folder, identity)
    if spec.kind in ("open_clip", "open_clip_text"):
        from pipeline.encoders import openclip

        return (openclip.ImageTower if spec.kind == "open_clip" else openclip.TextTower)(spec, folder, identity)
    from pipeline.encoders import transformers_clip

    return (transformers_clip.ImageTower if spec.kind == "transformers_clip" else transformers_clip.TextTower)(
        spec, folder, identity
    )


def quiet_libraries() -> None:
    """The libraries' own bars for reading weights would break the one bar that matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
