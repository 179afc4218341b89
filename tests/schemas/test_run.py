"""The models of runs and re-extractions follow from the list of sources."""

import pickle

import pytest

from schemas import re_extract, run
from schemas.sources import SOURCES

GIVEN = {"raw": ".", "name": "shop", "category": "Books"}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("module", [run, re_extract])
def test_each_source_has_its_model_which_gives_the_source_back_and_can_be_pickled(module, kind: str) -> None:
    source, model = SOURCES[kind], module.PARAMETERS[kind]
    given = {name: GIVEN[name] for name in GIVEN.keys() & source.model_fields.keys()}
    parameters = model(**given, store="s3://bucket/x")
    assert parameters.source == source(**given)
    assert parameters.source.kind == kind
    assert pickle.loads(pickle.dumps(parameters)) == parameters
    assert getattr(module, model.__name__) is model


def test_the_demo_takes_offline_models_unless_told_otherwise_and_the_others_those_of_the_hub() -> None:
    assert run.PARAMETERS["demo"]().models == "offline"
    assert run.PARAMETERS["demo"](models="default").models == "default"
    assert re_extract.PARAMETERS["demo"]().models == "offline"
    assert run.PARAMETERS["amazon"](category="Books").models == "default"
