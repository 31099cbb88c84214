"""Which model `recommend` takes; times are given, except in one test, which measures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.engines.optimize import OptimizedModel, optimize
from hrnet_zoo.errors import ConfigError, DatasetError
from hrnet_zoo.evaluation import recommend as recommending
from hrnet_zoo.evaluation.recommend import recommend
from hrnet_zoo.images.read import RGB
from hrnet_zoo.zoo.catalog import ModelInfo

SMALL = ("fcn_hr18s_voc12aug_20k", "fcn_hr18s_voc12aug_40k", "fcn_hr18_voc12aug_40k")


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Give the milliseconds that each network seems to take."""
    found = {"fcn_hr18s_voc12aug_40k": 40.0, "fcn_hr18_voc12aug_40k": 70.0}

    def milliseconds(row: ModelInfo, like: OptimizedModel, image: RGB) -> float:
        assert image.shape == (375, 500, 3)
        return found[row.name]

    pytorch = partial(optimize, engine="pytorch")
    monkeypatch.setattr(recommending, "optimize", pytorch)
    monkeypatch.setattr(recommending, "list_models", lambda dataset: list(SMALL))
    monkeypatch.setattr(recommending, "_milliseconds", milliseconds)
    return found


def test_the_most_accurate_one_within_the_limit(times: dict[str, float]) -> None:
    for limit, name in ((None, SMALL[2]), (70.0, SMALL[2]), (69.9, SMALL[1]), (39.0, None)):
        found = recommend("voc12aug", max_ms=limit, device="cpu")
        assert found.name == name
        assert [(each.name, each.miou, each.milliseconds, each.best) for each in found.choices] == [
            (SMALL[1], 66.61, 40.0, True),  # the longer schedule of the two
            (SMALL[2], 72.90, 70.0, True),
        ]


def test_a_slower_and_worse_one_is_never_taken(times: dict[str, float]) -> None:
    times[SMALL[1]] = 90.0
    found = recommend("voc12aug", device="cpu")
    assert found.name == SMALL[2]
    assert [(each.name, each.best) for each in found.choices] == [(SMALL[2], True), (SMALL[1], False)]


def test_the_plot(times: dict[str, float], tmp_path: Path) -> None:
    recommend("voc12aug", max_ms=60, device="cpu").save_plot(tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<svg" in text


def test_measured_on_images_of_the_folders_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number, size in enumerate(((64, 48), (90, 40), (33, 70))):  # (width, height)
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(recommending, "list_models", lambda dataset: [f"fcn_hr18s_{dataset}_40k"])
    monkeypatch.setattr(recommending, "_SECONDS", 0.0)
    monkeypatch.setattr(recommending, "_LEAST_RUNS", 1)
    found = hrnet_zoo.recommend("voc12aug", data=tmp_path, max_ms=1e9, device="cpu")
    assert (found.height, found.width) == (48, 64)
    assert found.name == "fcn_hr18s_voc12aug_40k"
    assert found.choices[0].milliseconds > 1
    assert found.form.split()[0] in ("onednn", "pytorch", "openvino")


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset is one of cityscapes"):
        recommend("kitti")
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="no positive number"):
            recommend(max_ms=limit)
    with pytest.raises(DatasetError, match="no image"):
        recommend(data=tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="none of 1 can be read"):
        recommend(data=tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        recommend(data=tmp_path / "absent")
