"""What a model's licence says of its use: read from its card, recorded with what it made."""

import re
from pathlib import Path

from schemas.encoders import ModelSpec
from schemas.errors import UserError

CARD = "README.md"
_NON_COMMERCIAL = re.compile(r"\bnc\b|non commercial|noncommercial|research|academic|\bamlr\b")
"""Research: Qwen's licence of that name (Qwen2.5-VL-3B, jina-embeddings-v4), and Apple's (`apple-amlr`)."""


def accepted(spec: ModelSpec, folder: Path | None = None) -> str:
    """The licence of a model: as its card names it, else as the spec does; empty if neither says.

    Args:
        folder: the model's files.

    Raises:
        UserError: it forbids commercial use, and the spec does not accept that; or the card cannot be read.
    """
    licence = (_of_card(folder / CARD) if folder else "") or spec.license
    forbidding = next(filter(_is_non_commercial, (licence, spec.license)), None)
    if forbidding is not None and not spec.accept_license:
        raise UserError(
            f"Model {spec.model!r} has the licence {forbidding!r}, which forbids commercial use. Choose another model, "
            "or, if your use is allowed, say so with accept_license: true in its spec."
        )
    return licence


def _is_non_commercial(licence: str) -> bool:
    return bool(_NON_COMMERCIAL.search(re.sub(r"[^a-z0-9]+", " ", licence.lower())))


def _of_card(card: Path) -> str:
    """`license` of a model card's head; with `license_name`, where it is one of the publisher's own."""
    if not card.is_file():
        return ""
    from huggingface_hub.repocard import metadata_load  # half a second to import

    try:
        head = metadata_load(card) or {}
    except Exception as error:  # YAML raises many types
        reason = str(error).splitlines()[0]
        raise UserError(f"{card}: expected a model card that begins with YAML, found other text ({reason}).") from error
    return " ".join(str(head[key]) for key in ("license", "license_name") if head.get(key))
