"""Scenes as a dataset in Cityscapes' layout."""

from pathlib import Path

import numpy as np
import pytest

from hrnet_zoo.datasets import SCENES
from hrnet_zoo.datasets.layouts import find_samples
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.errors import OutputError
from hrnet_zoo.images.label_maps import read_labels
from hrnet_zoo.images.read import read_image


def test_scenes_come_back_as_they_were_drawn(tmp_path: Path) -> None:
    write_dataset(tmp_path / "scenes", seeds=[3, 4], progress=False)
    folder = find_samples(tmp_path / "scenes", SCENES)
    assert folder.title == "Cityscapes"
    assert "labelIds" in folder.rule.title
    assert [sample.name for sample in folder.samples] == ["demo/demo_000003_000019", "demo/demo_000004_000019"]
    assert not folder.problems
    for seed, sample in zip((3, 4), folder.samples, strict=True):
        drawn = scene(seed)
        assert np.array_equal(read_image(sample.image), drawn.image)
        assert np.array_equal(folder.rule.indices(read_labels(sample.labels)), drawn.mask)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "scenes").touch()
    with pytest.raises(OutputError, match="scenes"):
        write_dataset(tmp_path / "scenes", seeds=[0], progress=False)


def test_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"holds something already, notes\.txt"):
        write_dataset(tmp_path, seeds=[0], progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(OutputError, match=r"Permission denied[\s\S]*name another folder"):
        write_dataset(tmp_path, seeds=[0], progress=False)
