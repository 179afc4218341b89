"""From a spec to its fingerprint (cheap) and to the encoder itself (which reads the weights)."""

import logging
import pkgutil
import time
from dataclasses import dataclass

from pipeline.encoders import model_files
from pipeline.encoders.base import Encoder, Fingerprint
from pipeline.encoders.many_devices import ManyDevices
from pipeline.machine import devices, resolve_dtype, use_threads
from schemas.encoders import EncoderKind, EncoderSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """What loads one kind of encoder.

    Attributes:
        path: "module:Class", imported when such a model is loaded, because its library takes seconds to import. The
            class is a `TextEncoder` or an `ImageEncoder`, made from a spec, the model's folder and the fingerprint.
        version: part of the fingerprint; raise it if the same model would give other vectors.
        weights: patterns of the files that hold the model; narrow where a repository holds the same model twice.
    """

    path: str
    version: int = 1
    weights: tuple[str, ...] = model_files.SAFETENSORS


OPEN_CLIP = ("open_clip*.safetensors",)
ADAPTERS: dict[EncoderKind, Adapter] = {
    "sentence": Adapter("pipeline.encoders.sentence:SentenceEncoder"),
    "open_clip": Adapter("pipeline.encoders.openclip:ImageTower", weights=OPEN_CLIP),
    "open_clip_text": Adapter("pipeline.encoders.openclip:TextTower", weights=OPEN_CLIP),
    "timm": Adapter("pipeline.encoders.timm:TimmEncoder"),
    "transformers_clip": Adapter("pipeline.encoders.transformers_clip:ImageTower"),
    "transformers_clip_text": Adapter("pipeline.encoders.transformers_clip:TextTower"),
}
"""Every kind of encoder. `TextKind` and `ImageKind` in schemas/encoders.py say what each kind reads."""


def fingerprint(spec: EncoderSpec) -> Fingerprint:
    """What identifies the vectors of `spec` on this machine; fetches or unpacks the files, loads nothing.

    Raises:
        UserError: the model is missing, damaged or not reachable.
    """
    adapter = ADAPTERS[spec.kind]
    content = model_files.content_hash(model_files.locate(spec, adapter.weights), adapter.weights)
    return Fingerprint(
        kind=spec.kind,
        model=spec.model,
        revision=spec.revision or content[:16],
        weights=content,
        options=spec.model_dump(include={"prompt", "truncate_dim", "max_tokens", "image_size", "normalize"}),
        dtype=resolve_dtype(spec.dtype),
        code=adapter.version,
    )


def load(spec: EncoderSpec) -> Encoder:
    """The encoder, ready to use.

    Raises:
        UserError: the model is missing, damaged, or not of the kind the spec says, or has fewer dimensions.
    """
    use_threads()
    quiet_libraries()
    adapter = ADAPTERS[spec.kind]
    folder = model_files.locate(spec, adapter.weights)
    identity = fingerprint(spec)
    started = time.monotonic()
    encoder: Encoder
    try:
        encoder = pkgutil.resolve_name(adapter.path)(spec, folder, identity)
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
        encoder = ManyDevices(encoder, spec, others, load)
    logger.info("loaded %s (%s, %s) in %.1f s", spec.model, spec.kind, identity.dtype, time.monotonic() - started)
    return encoder


def quiet_libraries() -> None:
    """Switch off the libraries' own progress bars for reading weights, which would break ours."""
    from transformers.utils import logging as transformers_logging  # seconds to import; `fingerprint` does without

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
