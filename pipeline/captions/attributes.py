"""Attributes instead of a sentence: the JSON schema that is asked for, the judgement of the answer, and its text."""

import functools
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from pipeline.captions.verdict import AGAIN, verdict
from schemas.encoders import Attribute, CaptionSpec
from schemas.tables import CaptionStatus

JSON_ALONE = "Answer with JSON by this schema alone; null for what the picture does not show: "
AGAIN_JSON = "Answer with the JSON alone, without any other word."
"""Appended to the prompt of the second request."""
_FENCED = re.compile(r"^```(?:json)?\s*(.*?)\s*```$", re.DOTALL)


def prompt(spec: CaptionSpec, *, again: bool) -> str:
    """The instruction given with a picture, the schema included where attributes are asked for."""
    words = [spec.prompt]
    if spec.attributes:
        words.append(JSON_ALONE + json.dumps(schema(spec.attributes), ensure_ascii=False))
    if again:
        words.append(AGAIN_JSON if spec.attributes else AGAIN)
    return " ".join(words)


def schema(attributes: tuple[Attribute, ...]) -> dict[str, Any]:
    """The JSON schema of an answer: an object with every attribute, each a string or null, and nothing else."""
    return _model(attributes).model_json_schema()


def judged(answer: str, spec: CaptionSpec, *, cut: bool = False) -> tuple[str, CaptionStatus]:
    """What is kept of an answer, and the verdict on it: of attributes the JSON, of a sentence the answer itself.

    Args:
        cut: the answer was cut off at the token limit.
    """
    if not spec.attributes:
        return answer, verdict(answer, spec.max_words, cut=cut)
    inner = _FENCED.sub(r"\1", answer.strip())
    try:
        values = _model(spec.attributes).model_validate_json(inner).model_dump(by_alias=True)
    except ValidationError:
        prose = verdict(answer, spec.max_words, cut=cut)
        known = (CaptionStatus.EMPTY, CaptionStatus.REFUSAL, CaptionStatus.TOO_LONG)
        return answer, prose if prose in known else CaptionStatus.NOT_JSON
    stripped = {name: (value or "").strip() or None for name, value in values.items()}
    kept = json.dumps(stripped, ensure_ascii=False)
    # Each value once: a bag whose body, strap and lining are black is no repetition.
    return kept, verdict(" ".join(dict.fromkeys(filter(None, stripped.values()))), spec.max_words)


def values(kept: str | None, spec: CaptionSpec) -> dict[str, str | None]:
    """Attribute → value of what `judged` kept as `OK`; all null for None."""
    given = cast(Mapping[str, str | None], json.loads(kept)) if kept is not None and spec.attributes else {}
    return {attribute.name: given.get(attribute.name) for attribute in spec.attributes}


def text(kept: str | None, spec: CaptionSpec) -> str | None:
    """The caption: what `judged` kept as `OK`, or its attributes joined by the template; None if that says nothing."""
    if kept is None or not spec.attributes:
        return kept
    seen = {name: value or "" for name, value in values(kept, spec).items()}
    if spec.template:
        return " ".join(spec.template.format(**seen).split()) or None
    return ", ".join(f"{name}: {value}" for name, value in seen.items() if value)


@functools.cache
def _model(attributes: tuple[Attribute, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for number, attribute in enumerate(attributes):  # under names of their own: `copy` or `json` are pydantic's
        words: Any = Literal[attribute.values] if attribute.values else str
        told = Field(alias=attribute.name, description=attribute.description or None, title=attribute.name)
        fields[f"attribute_{number}"] = (words | None, told)
    model = create_model("Attributes", __config__=ConfigDict(extra="forbid", strict=True), **fields)
    return cast(type[BaseModel], model)
