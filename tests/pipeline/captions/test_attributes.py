"""Attributes are asked for by a schema, validated, kept as columns and joined into the text that the encoder reads."""

import json

import polars as pl
import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from pipeline import captions
from pipeline.captions import attributes
from pipeline.published import Published
from pipeline.report import sections
from pipeline.store import Store
from schemas.encoders import Attribute, CaptionSpec
from tests.support.moody_server import Moody, good, reply
from tests.support.published import jpeg, publish_images

ASKED = (
    Attribute(name="colour", description="the main colour", values=("red", "blue")),
    Attribute(name="material"),
    Attribute(name="copy"),  # which pydantic's models have as a method
)
SPEC = CaptionSpec(kind="transformers", model="/m", attributes=ASKED)
RED, BLUE, GREEN = jpeg((200, 0, 0)), jpeg((0, 0, 200)), jpeg((0, 200, 0))
WOOL = {"colour": "red", "material": "wool", "copy": None}


def run(store: Store, spec: CaptionSpec, *pictures: bytes | None) -> Published:
    images = publish_images(store, [(f"i{n}", picture) for n, picture in enumerate(pictures)])
    return captions.run(store=store, images=images, spec=spec)


def rows(published: Published) -> list[dict[str, object]]:
    return pl.read_parquet(published.tables["captions"].path).to_dicts()


def test_the_schema_wants_every_attribute_and_nothing_else() -> None:
    validator = Draft202012Validator(attributes.schema(ASKED))
    assert validator.is_valid(WOOL)
    assert not validator.is_valid(WOOL | {"colour": "green"})
    assert not validator.is_valid(WOOL | {"style": "old"})
    assert not validator.is_valid({"colour": "red", "material": "wool"})
    assert attributes.schema(ASKED)["properties"]["colour"]["description"] == "the main colour"


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (json.dumps(WOOL), "ok"),
        (f"```json\n{json.dumps(WOOL)}\n```", "ok"),
        ("A red scarf made of wool.", "not_json"),
        (json.dumps(WOOL)[:-5], "not_json"),
        (json.dumps(WOOL | {"material": 3}), "not_json"),
        (json.dumps(WOOL | {"colour": "green"}), "not_json"),
        (json.dumps([WOOL]), "not_json"),
        (json.dumps({"colour": None, "material": " ", "copy": None}), "empty"),
        ("I'm sorry, I can't help with that.", "refusal"),
        ("", "empty"),
        (json.dumps(WOOL | {"material": " ".join(f"w{n}" for n in range(60))}), "too_long"),
        (json.dumps(WOOL | {"copy": "soft and warm " * 5}), "repetition"),
    ],
)
def test_an_answer_is_the_json_asked_for_or_says_what_it_is_instead(answer: str, status: str) -> None:
    assert attributes.judged(answer, SPEC)[1] == status


def test_attributes_may_have_the_same_value() -> None:
    parts = tuple(Attribute(name=name) for name in ("body", "strap", "lining", "buckle", "zip"))
    spec = SPEC.model_copy(update={"attributes": parts})
    assert attributes.judged(json.dumps({part.name: "black" for part in parts}), spec)[1] == "ok"


def test_json_that_was_cut_off_was_too_long() -> None:
    assert attributes.judged(json.dumps(WOOL)[:-5], SPEC, cut=True)[1] == "too_long"


def test_an_endpoint_is_asked_by_response_format_and_prose_is_a_row_with_a_reason(store: Store, server: Moody) -> None:
    blue = {"colour": "blue", "material": None, "copy": None}
    server.moods = [reply(good(text)) for text in (json.dumps(WOOL), json.dumps(blue), "A mug.", "Still a mug.")]
    published = run(store, server.spec(attributes=ASKED, batch_size=1), RED, BLUE, GREEN, None)
    first, second, third, fourth = rows(published)
    wanted = server.bodies[0]["response_format"]
    assert (wanted["type"], wanted["json_schema"]["strict"]) == ("json_schema", True)
    assert wanted["json_schema"]["schema"] == attributes.schema(ASKED)
    assert (first["attribute_colour"], first["attribute_material"], first["attribute_copy"]) == ("red", "wool", None)
    assert (first["caption"], second["caption"]) == ("colour: red, material: wool", "colour: blue")
    assert (third["status"], third["caption"], third["attribute_colour"]) == ("not_json", None, None)
    assert fourth["status"] == "no_image"
    assert published.counts["rejected: not_json"] == 1
    assert server.bodies[-1]["messages"][0]["content"][1]["text"].endswith(attributes.AGAIN_JSON)
    (colour, material, copy) = sections.attributes(store, published.tables)
    assert (colour["name"], colour["share"], colour["values"]) == ("colour", 0.5, [("red", 1), ("blue", 1)])
    assert (material["count"], copy["count"]) == (1, 0)


def test_another_template_asks_for_nothing_again(store: Store, server: Moody) -> None:
    server.moods = [reply(good(json.dumps(WOOL)))]
    spec = server.spec(attributes=ASKED)
    first = run(store, spec, RED)
    joined = run(store, spec.model_copy(update={"template": "a {colour} {copy} thing of {material}"}), RED)
    assert len(server.arrivals) == 1
    assert joined.tables["captions"].version != first.tables["captions"].version
    assert rows(joined)[0]["caption"] == "a red thing of wool"
    nothing = run(store, spec.model_copy(update={"template": "{copy}"}), RED)
    assert (rows(nothing)[0]["caption"], rows(nothing)[0]["status"]) == (None, "empty")


def test_the_tiny_captioner_speaks_prose_and_every_picture_says_so(store: Store, drawings: list[bytes]) -> None:
    spec = CaptionSpec(kind="transformers", model="offline:tiny-llava", max_new_tokens=24, attributes=ASKED)
    published = run(store, spec, *drawings)
    assert {row["status"] for row in rows(published)} <= {"not_json", "too_long", "empty"}
    assert {row["caption"] for row in rows(published)} == {None}


def test_a_captioner_without_attributes_is_identified_and_asked_as_before() -> None:
    spec = CaptionSpec(kind="endpoint", model="m", base_url="http://127.0.0.1:9/v1")
    from pipeline.captions import load

    assert load.fingerprint(spec).options.keys() == {"prompt", "system", "max_new_tokens", "max_words"}
    assert attributes.prompt(spec, again=False) == spec.prompt


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"template": "a {style} thing"}, "style is none of the attributes: colour, material, copy"),
        ({"template": "a {colour"}, "template 'a {colour'"),
        ({"template": "{colour:d}"}, "write {colour} alone, without ! or : after"),
        ({"template": "a {colour!x}"}, "write {colour} alone"),
        ({"template": "{copy} {colour:>{material}}"}, "write {colour} alone"),
        ({"template": "{colour.__class__}"}, "is none of the attributes"),
        ({"attributes": (*ASKED, Attribute(name="copy"))}, "each name may come once"),
    ],
)
def test_a_template_or_a_list_that_cannot_be_meant_is_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        CaptionSpec(**{"kind": "transformers", "model": "/m", "attributes": ASKED} | given)
