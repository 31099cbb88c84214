"""`predict` of the network and of its optimized form: one signature, keywords after the image."""

import inspect
from typing import Any

import numpy as np
import pytest

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.engines.optimize import OptimizedModel, optimize
from hrnet_zoo.errors import ConfigError
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.zoo.create import create_model

IMAGE = scene(0, 64, 96).image


@pytest.fixture(scope="module")
def network() -> FCNHRNet:
    return create_model("demo", device="cpu", pretrained=False)


@pytest.fixture(scope="module")
def forms(network: FCNHRNet) -> dict[str, Any]:
    return {"network": network, "optimized": optimize(network)}


def test_both_forms_have_the_same_signature(forms: dict[str, Any]) -> None:
    network, optimized = (inspect.signature(form.predict) for form in forms.values())
    assert network == optimized
    image, *others, wrong = network.parameters.values()
    assert image.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert wrong.kind is inspect.Parameter.VAR_KEYWORD


@pytest.mark.parametrize("form", ["network", "optimized"])
def test_positions_work_for_one_more_version(form: str, forms: dict[str, Any]) -> None:
    """In the order that each form had, which differed after the sixth."""
    model = forms[form]
    wanted = model.predict(IMAGE, probabilities=True, color="bgr")
    last = ["whole", False, True, False, None, *([False] if form == "network" else []), "raise", "bgr"]
    with pytest.warns(DeprecationWarning, match=r"pass mode, ms_flip, .*, on_error, color by keyword") as caught:
        found = model.predict(IMAGE, *last)
    assert caught[0].filename == __file__
    assert np.array_equal(found.probabilities, wanted.probabilities)
    with pytest.raises(TypeError, match="takes one positional argument"):
        model.predict(IMAGE, *last, "more")
    with pytest.raises(TypeError, match="takes one positional argument"):
        model.predict(IMAGE, "whole", mode="whole")


def test_an_optimized_model_is_fast_already(forms: dict[str, Any]) -> None:
    model = forms["optimized"]
    assert isinstance(model, OptimizedModel)
    assert np.array_equal(model.predict(IMAGE, fast=True).mask, model.predict(IMAGE).mask)


def test_arguments_of_other_libraries_lead_to_ours(forms: dict[str, Any]) -> None:
    for form in forms.values():
        for wrong, advice in (({"img": IMAGE}, "image="), ({"tta": True}, "ms_flip=True"), ({"xyz": 1}, "help")):
            with pytest.raises(ConfigError, match=f"(?s)has no argument {next(iter(wrong))}.*{advice}"):
                form.predict(**wrong)
