"""From a spec to its fingerprint, which identifies the captions, and to the captioner itself."""

from typing import Any

from pipeline import consent
from pipeline.encoders import licences, model_files
from pipeline.encoders.base import Captioner, Fingerprint
from pipeline.encoders.load import quiet_libraries
from pipeline.machine import resolve_dtype, use_threads
from pipeline.store import Store
from schemas.encoders import CaptionSpec
from schemas.errors import UserError

CODE = {"transformers": 1, "endpoint": 1}
"""Version of each captioner; raise it if the same model would give other captions."""

OPTIONS = {"prompt", "system", "max_new_tokens", "max_words"}
"""Fields of every spec that decide its captions, besides the model."""


def options(spec: CaptionSpec) -> dict[str, Any]:
    """What decides the answers, besides the model. The template does not: it only joins what was answered."""
    asked = {"attributes": [each.model_dump(mode="json") for each in spec.attributes]} if spec.attributes else {}
    return spec.model_dump(include=OPTIONS) | asked


def fingerprint(spec: CaptionSpec) -> Fingerprint:
    """What identifies the captions of `spec`. An endpoint's model is identified by its name and revision only.

    Raises:
        UserError: the model is missing, damaged or not reachable, or the operator does not allow it.
    """
    if spec.is_served:
        consent.check_endpoint(spec.base_url)
        folder, content, dtype = None, f"{spec.model}@{spec.revision}", "endpoint"
    else:
        folder = model_files.locate(spec)
        content = model_files.content_hash(folder, code=spec.trust_remote_code)
        dtype = resolve_dtype(spec.dtype)
    return Fingerprint(
        kind=spec.kind,
        model=spec.model,
        revision=spec.revision or (content[:16] if spec.kind == "transformers" else ""),
        weights=content,
        options=options(spec),
        dtype=dtype,
        code=CODE[spec.kind],
        license=licences.accepted(spec, folder),
    )


def recorded(store: Store, spec: CaptionSpec) -> Fingerprint | None:
    """As `pipeline.encoders.load.recorded`; an endpoint's is known without a record."""
    if spec.kind == "endpoint":
        return fingerprint(spec)
    return model_files.recorded(store, "captions", spec, options(spec), CODE[spec.kind])


def load(spec: CaptionSpec) -> Captioner:
    """The captioner, ready to use.

    Raises:
        UserError: the model is missing or damaged, or the endpoint's key is not set.
    """
    use_threads()
    quiet_libraries()
    identity = fingerprint(spec)
    if spec.kind == "endpoint":
        from pipeline.captions.endpoint import EndpointCaptioner

        return EndpointCaptioner(spec, identity)
    from pipeline.captions.transformers import TransformersCaptioner

    folder = model_files.locate(spec)
    try:
        return TransformersCaptioner(spec, folder, identity)
    except Exception as error:  # libraries raise every type there is for a model that does not fit
        raise UserError(
            f"Model {spec.model!r} in {folder} could not be loaded as an image-text-to-text model: "
            f"{type(error).__name__}: {error}. Check that it has a processor and a chat template."
        ) from error
