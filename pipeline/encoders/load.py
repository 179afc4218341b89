"""From a spec to its fingerprint (cheap) and to the encoder itself (which reads the weights)."""

import logging
import pkgutil
import time
from dataclasses import dataclass

from pipeline import consent
from pipeline.encoders import licences, model_files
from pipeline.encoders.base import Encoder, Fingerprint
from pipeline.machine import devices, resolve_dtype, use_threads
from pipeline.store import Store
from schemas.encoders import EncoderKind, EncoderSpec
from schemas.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """What loads one kind of encoder.

    Attributes:
        path: "module:Class", imported when such a model is loaded, because its library takes seconds to import. The
            class is an `Encoder` of base.py, made from a spec, the model's folder (None for an endpoint) and the
            fingerprint.
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
    "timm": Adapter("pipeline.encoders.timm:TimmEncoder", version=2),
    "transformers_clip": Adapter("pipeline.encoders.transformers_clip:ImageTower"),
    "transformers_clip_text": Adapter("pipeline.encoders.transformers_clip:TextTower"),
    "multimodal": Adapter("pipeline.encoders.multimodal:MultimodalEncoder"),
    "embedding-endpoint": Adapter("pipeline.encoders.endpoint:EndpointEncoder"),
    "embedding-endpoint-image": Adapter("pipeline.encoders.endpoint:EndpointEncoder"),
}
"""Every kind of encoder. `TextKind`, `ImageKind` and `ItemKind` in schemas/encoders.py say what each kind reads."""
OPTIONS = {"prompt", "truncate_dim", "max_tokens", "image_size", "normalize"}
"""Fields of a spec that decide its vectors, besides the model."""


def fingerprint(spec: EncoderSpec) -> Fingerprint:
    """What identifies the vectors of `spec` on this machine; fetches or unpacks the files, loads nothing. An endpoint's
    model is identified by its name and revision only.

    Raises:
        UserError: the model is missing, damaged or not reachable, or the operator does not allow it.
    """
    adapter = ADAPTERS[spec.kind]
    folder = None
    if spec.is_served:
        consent.check_endpoint(spec.base_url)
        content = f"{spec.model}@{spec.revision}"
    else:
        folder = model_files.locate(spec, adapter.weights)
        content = model_files.content_hash(folder, adapter.weights, code=spec.trust_remote_code)
    return Fingerprint(
        kind=spec.kind,
        model=spec.model,
        revision=spec.revision or ("" if spec.is_served else content[:16]),
        weights=content,
        options=spec.model_dump(include=OPTIONS),
        dtype="endpoint" if spec.is_served else resolve_dtype(spec.dtype),
        code=adapter.version,
        license=licences.accepted(spec, folder),
    )


def recorded(store: Store, spec: EncoderSpec) -> Fingerprint | None:
    """The fingerprint under which this store last kept vectors of `spec`, found without the model's files and without
    torch; None if it has none. An endpoint's is known without a record."""
    if spec.is_served:
        return fingerprint(spec)
    return model_files.recorded(store, "features", spec, spec.model_dump(include=OPTIONS), ADAPTERS[spec.kind].version)


def load(spec: EncoderSpec) -> Encoder:
    """The encoder, ready to use.

    Raises:
        UserError: the model is missing, damaged, or not of the kind the spec says, or has fewer dimensions.
    """
    use_threads()
    quiet_libraries()
    adapter = ADAPTERS[spec.kind]
    identity = fingerprint(spec)
    folder = None if spec.is_served else model_files.locate(spec, adapter.weights)
    started = time.monotonic()

    def make() -> Encoder:
        made: Encoder = pkgutil.resolve_name(adapter.path)(spec, folder, identity)
        return made

    try:
        if not spec.is_served and devices() == ["mps"]:
            from pipeline.encoders import on_apple  # torch: `fingerprint` and `recorded` do without

            encoder = on_apple.load(make, spec)
        else:
            encoder = make()
    except UserError:
        raise
    except Exception as error:  # libraries raise every type there is for a model that does not fit
        raise UserError(
            f"Model {spec.model!r} in {folder or spec.base_url} could not be loaded as {spec.kind!r}: "
            f"{type(error).__name__}: {error}. Check that the kind fits the model; if its files were changed, delete "
            "the folder and run again."
        ) from error
    if spec.truncate_dim and spec.truncate_dim > encoder.dim:
        raise UserError(
            f"truncate_dim {spec.truncate_dim}: vectors of {spec.model!r} have {encoder.dim} numbers. Choose fewer, or "
            "leave it out."
        )
    if not spec.is_served and (others := devices()[1:]):
        from pipeline.encoders.many_devices import ManyDevices  # as on_apple

        encoder = ManyDevices(encoder, spec, others, load)
    logger.info("loaded %s (%s, %s) in %.1f s", spec.model, spec.kind, identity.dtype, time.monotonic() - started)
    return encoder


def quiet_libraries() -> None:
    """Switch off the libraries' own progress bars for reading weights, which would break ours."""
    consent.check_hub()
    from transformers.utils import logging as transformers_logging  # seconds to import; `fingerprint` does without

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
