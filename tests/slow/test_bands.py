"""Near infrared helps: a training on four bands beside one on their colors alone, of the same images."""

from pathlib import Path
from typing import Any

import pytest

from hrnet_zoo.training.finetune import finetune
from hrnet_zoo.zoo.create import create_model
from tests.support.band_images import BANDS, MEAN, STD, write_band_images

STEPS = 40


def test_a_fourth_band_tells_apart_what_has_the_same_color(tmp_path: Path) -> None:
    found = {}
    for number in (3, 4):
        given: dict[str, Any] = {"bands": BANDS, "mean": MEAN, "std": STD} if number == 4 else {}
        run = finetune(
            "demo",
            write_band_images(tmp_path / f"data{number}", 32, rgb=number == 3),
            tmp_path / f"run{number}",
            steps=STEPS,
            batch=4,
            crop=(64, 96),
            resize_to=(96, 64),
            lr=0.02,
            val=0.25,
            workers=0,
            device="cpu",
            progress=False,
            **given,
        )
        assert run.miou is not None
        found[number] = run.miou
    assert found[4] > found[3] + 15
    model, image = create_model(tmp_path / "run4", device="cpu"), tmp_path / "data4/images/0.tif"
    exact, fast = (
        model.predict(image).mask,
        model.predict(image, fast=True).mask,
    )  # engines are timed
    assert (exact == fast).mean() > 0.99
    assert (exact == model.predict(image, ms_flip=True, mode="slide").mask).mean() > 0.8
    assert found[3] == pytest.approx(50, abs=15)  # soil is found; a plant is as likely plastic
