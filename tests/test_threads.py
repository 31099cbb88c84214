"""Several threads, and the rest of the process: what one call does, no other one notices."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import ConfigError, LogitsError
from hrnet_zoo.images.read import RGB
from hrnet_zoo.inference.blocks import Floats
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.update import checkpoint_activations
from hrnet_zoo.zoo.create import create_model

IMAGES = [scene(seed, 64, 96).image for seed in range(4)]


def small() -> FCNHRNet:
    model = create_model("demo", device="cpu")
    model.dataset = dataclasses.replace(model.dataset, resize_to=(96, 64), crop=(64, 64))
    return model


def probabilities(model: FCNHRNet, image: RGB) -> Floats:
    found = model.predict(image, probabilities=True).probabilities
    assert found is not None
    return found


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("thrifty", [False, True])
def test_threads_predict_with_a_network_in_training_mode(thrifty: bool) -> None:
    model = small()
    wanted = [probabilities(model, image) for image in IMAGES]
    if thrifty:
        checkpoint_activations(model)
    model.train()
    model.backbone.layer1.eval()
    modes, before = [module.training for module in model.modules()], state(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(probabilities, model), IMAGES * 8))
    assert all(np.array_equal(each, wanted[number % 4]) for number, each in enumerate(found))
    assert [module.training for module in model.modules()] == modes
    assert same(before, model.state_dict())


def test_a_training_does_not_notice_predictions_nor_they_its_modes() -> None:
    """A loop of one's own changes the mode again and again, and one prediction at least runs meanwhile."""
    shown, x = small(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    stop = threading.Event()

    def train(model: FCNHRNet, done: threading.Event | None = None) -> dict[str, Tensor]:
        for turn in range(4):
            model.train(turn % 2 == 0)
            model(x).square().mean().backward()  # gradients add up, weights stay
            if done and turn == 3 and not done.wait(60):
                pytest.fail("no prediction ended")
        gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
        return {**state(model), **{f"{name}.grad": each for name, each in gradients.items()}}

    wanted = train(small())
    masks = []

    def watch() -> None:
        while not stop.is_set():
            masks.append(shown.predict(IMAGES[0]).mask.shape)
            predicted.set()

    predicted = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = train(shown, predicted)
    finally:
        stop.set()
        watcher.join()
    assert masks
    assert same(wanted, found)


def test_a_prediction_outlasts_the_change_of_mode() -> None:
    """A hook, which copies keep, stands for a thread that trains in the middle of a prediction."""
    model, before = small(), state(small())
    wanted = model.predict(IMAGES[0]).mask
    seen = []

    def train(module: nn.Module, args: object, output: Tensor) -> None:
        seen.append(output.shape)
        model.train()

    model.backbone.layer1.register_forward_hook(train)
    assert np.array_equal(model.predict(IMAGES[0]).mask, wanted)
    assert seen
    assert model.training
    assert same(before, model.state_dict())


def test_a_module_whose_forward_was_replaced() -> None:
    model = small()
    wanted = model.predict(IMAGES[0]).mask
    plain = model.backbone.layer1.forward
    model.backbone.layer1.forward = lambda x: plain(x)  # type: ignore[method-assign, no-untyped-call]
    assert np.array_equal(model.predict(IMAGES[0]).mask, wanted)
    with pytest.raises(ConfigError, match=r"(?s)Sequential.*call model\.eval\(\) first"):
        model.train().predict(IMAGES[0])


def test_a_forward_that_is_bound_to_its_module_is_none_of_its_own() -> None:
    """Accelerate leaves it there when it takes its wrappers off."""
    model = small()
    wanted = model.predict(IMAGES[0]).mask
    model.backbone.forward = model.backbone.forward  # type: ignore[method-assign]
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert np.array_equal(model.predict(IMAGES[0]).mask, wanted)
    assert same(before, model.state_dict())
    assert model.predict(IMAGES[0], fast=True).mask.shape == wanted.shape


def test_partly_frozen_is_partly_trained() -> None:
    model = small()
    frozen = (model.backbone.conv1, model.backbone.bn1, model.backbone.layer1, model.decode_head.convs)
    for part in frozen:
        part.requires_grad_(False)
    resting = {id(module) for part in frozen for module in part.modules()}
    assert all(module.training != (id(module) in resting) for module in model.train().modules())
    before = state(model)
    F.relu(model(torch.randn(2, 3, 64, 64))).mean().backward()  # type: ignore[no-untyped-call]
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    counted = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            learns = id(module) not in resting
            assert (f"{name}.weight" in learned, f"{name}.running_mean" in counted) == (learns, learns), name
    assert not any(module.training for module in model.eval().modules())


def test_only_the_first_parameters_learn() -> None:
    """The first parameter alone says nothing of the others."""
    model = small()
    model.backbone.requires_grad_(False)
    model.backbone.conv1.requires_grad_(True)
    model.train()
    assert model.backbone.training
    assert not any(module.training for module in model.backbone.stage4.modules())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error_whichever_view_they_are_of(wrong: float) -> None:
    model = small()
    calls, spoiled = list[torch.Size](), list[int]()

    def spoil(module: nn.Module, args: object, output: Tensor) -> Tensor:
        calls.append(output.shape)
        if len(calls) in spoiled:
            output[0, 3, 1, 1] = wrong
        return output

    model.decode_head.register_forward_hook(spoil)
    for number in (1, 4, 12):
        calls.clear()
        spoiled[:] = [number]
        with pytest.raises(LogitsError, match="infinite or not a number"):
            model.predict(IMAGES[0], ms_flip=True)
    calls.clear()
    with pytest.raises(LogitsError):  # "skip" is for images
        model.predict([IMAGES[0]] * 12, on_error="skip")
    spoiled.clear()
    assert model.predict(IMAGES[0], ms_flip=True).mask.shape == (64, 96)


def test_autocast_around_a_prediction_changes_no_bit() -> None:
    model = small()
    wanted = probabilities(model, IMAGES[0])
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert np.array_equal(probabilities(model, IMAGES[0]), wanted)
            assert torch.is_autocast_enabled("cpu")
