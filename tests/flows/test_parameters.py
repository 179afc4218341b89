"""One model is a flow's parameters and a command's options; what is wrong is refused by name."""

import inspect
from typing import Literal

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import BaseModel, ConfigDict, Field

from flows import ingest_and_train
from flows.parameters import documented, flat, validated
from schemas.errors import UserError
from schemas.run import PARAMETERS, AmazonParameters, CatalogueParameters, DemoParameters


class Parameters(BaseModel):
    """A small model of parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: Literal["default", "offline"] = Field("default", description="Which models.")
    category: str = Field(description="Which category.")


def given(parameters: Parameters) -> Parameters:
    return parameters


example = flat(Parameters, given, name="example", doc=documented("An example.", Parameters))


def test_fields_become_keyword_arguments_with_defaults_required_ones_first() -> None:
    assert list(inspect.signature(example).parameters) == ["category", "models"]
    assert example(category="Baby") == Parameters(category="Baby", models="default")
    assert example.__name__ == "example"


def test_prefect_sees_allowed_values_and_descriptions() -> None:
    schema = parameter_schema(example).model_dump()
    assert schema["required"] == ["category"]
    assert schema["properties"]["models"]["enum"] == ["default", "offline"]
    assert schema["properties"]["category"]["description"] == "Which category."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"category": "Baby", "models": "best"}, r"models: Input should be 'default' or 'offline' \(given: 'best'\)"),
        ({"category": "Baby", "colour": 1}, "colour: there is no such parameter"),
        ({}, "category: must be given"),
    ],
)
def test_wrong_unknown_and_missing_fields_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        example(**fields)


def test_every_wrong_field_is_reported_at_once() -> None:
    with pytest.raises(UserError) as refused:
        example(models="best", colour=1)
    assert str(refused.value).count("\n") == 3


def test_one_wrong_field_is_said_in_one_line_under_the_name_that_the_caller_has_for_it() -> None:
    with pytest.raises(UserError) as refused:
        validated(Parameters, {"category": "Baby", "models": "best"}, named=lambda field: f"--{field}")
    assert str(refused.value).startswith("Parameters refused before any work: --models: Input should be 'default'")
    assert "\n" not in str(refused.value)


def test_a_feature_without_an_encoder_is_refused_with_the_ones_there_are() -> None:
    with pytest.raises(ValueError, match="no encoder for smell; allowed: sentence, clip, vision, caption"):
        DemoParameters(features=("sentence", "smell"))


def test_parameters_that_do_not_fit_each_other_are_named_without_all_the_others() -> None:
    with pytest.raises(UserError) as caught:
        validated(CatalogueParameters, {"raw": "https://user:secret@shop.example", "features": ("smell",)})
    assert "no encoder for smell" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_release_is_a_number_on_the_command_line() -> None:
    assert AmazonParameters(category="Gift_Cards", release=2018).dataset == "amazon-gift-cards"
    properties = ingest_and_train.amazon.parameters.properties
    assert properties["release"]["enum"] == [2014, 2018, 2023]


def test_a_flow_is_made_when_it_is_asked_for_and_once() -> None:
    assert not set(vars(ingest_and_train)) & set(PARAMETERS)
    assert ingest_and_train.demo is ingest_and_train.demo
    assert not hasattr(ingest_and_train, "shopify")
