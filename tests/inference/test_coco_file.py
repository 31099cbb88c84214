"""COCO files of many images: what readers find, what survives a kill, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrnet_zoo.errors import OutputError
from hrnet_zoo.inference.coco_file import CocoFile
from hrnet_zoo.inference.result import SegmentationResult
from tests.inference.test_annotations import CLASSES, random_result

RESULTS = [random_result(seed) for seed in range(10)]
NAMES = [Path("a", f"{number} é\n\udcff.jpg") for number in range(10)]


def write(path: Path, numbers: range = range(10), **options: Any) -> None:
    with CocoFile(path, CLASSES, **options) as file:
        for number in numbers:
            if not file.has(NAMES[number]):
                file.add(NAMES[number], RESULTS[number])


def read_with_pycocotools(path: Path, results: list[SegmentationResult]) -> None:
    """Compare the masks of a file, and its run lengths, with those of pycocotools."""
    tool = pytest.importorskip("pycocotools.coco")
    coding = pytest.importorskip("pycocotools.mask")
    data = tool.COCO(str(path))
    for number, result in enumerate(results, start=1):
        mask = np.full(result.mask.shape, 255, np.uint8)
        for annotation in data.loadAnns(data.getAnnIds(imgIds=[number])):
            pixels = data.annToMask(annotation)
            mask[pixels == 1] = annotation["category_id"] - 1
            segmentation = annotation["segmentation"]
            assert coding.encode(np.asfortranarray(pixels))["counts"].decode() == segmentation["counts"]
            assert coding.toBbox(segmentation).tolist() == annotation["bbox"]
            assert coding.area(segmentation) == annotation["area"]
        assert np.array_equal(mask, result.mask)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # within pycocotools
def test_a_file_of_many_images(tmp_path: Path) -> None:
    """Ids go on; the file appears at the end, and nothing stays beside it."""
    path = tmp_path / "all.json"
    write(path)
    data = json.loads(path.read_bytes())
    assert [annotation["id"] for annotation in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
    for number, result in enumerate(RESULTS, start=1):
        name = f"a/{number - 1} é\\n\\udcff.jpg"
        assert data["images"][number - 1] == result.to_coco(name)["images"][0] | {"id": number}
        own = [annotation for annotation in data["annotations"] if annotation["image_id"] == number]
        assert [each["segmentation"] for each in own] == [
            each["segmentation"] for each in result.to_coco("a")["annotations"]
        ]
    assert list(tmp_path.iterdir()) == [path]
    read_with_pycocotools(path, RESULTS)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--resume goes on with it"):
        write(path)
    assert path.read_bytes() == before
    write(path, range(1), min_area=5, force=True)
    areas = [each["area"] for each in json.loads(path.read_bytes())["annotations"]]
    assert areas == [region.area for region in RESULTS[0].regions(min_area=5)]


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_resumed_anywhere_it_is_the_same_file(kept: int, tmp_path: Path) -> None:
    """After an error, after a kill within the last image, and after a complete file."""
    write(tmp_path / "whole.json")
    path, rows = tmp_path / "all.json", tmp_path / "all.json.jsonl"

    def run() -> None:
        with CocoFile(path, CLASSES) as file:
            for number in range(kept + 1):
                file.add(NAMES[number], RESULTS[number])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert not path.exists()
    with pytest.raises(OutputError, match="--resume goes on with it"):
        write(path)
    rows.write_bytes(rows.read_bytes()[:-20])
    write(path, resume=True)
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    write(path, range(kept), force=True)
    write(path, resume=True)
    assert path.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_another_file_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "all.json"
    write(path, range(2))
    data = json.loads(path.read_bytes())
    broken = {**data, "annotations": [{**data["annotations"][0], "image_id": 99}]}
    others: list[Any] = [{**data, "info": {}}, {**data, "categories": []}, broken, {"images": 5}, [], "x"]
    for other in others:
        path.write_text(json.dumps(other))
        with pytest.raises(OutputError, match="go on with"):
            write(path, resume=True)
        assert path.read_text() == json.dumps(other)
        assert list(tmp_path.iterdir()) == [path]
    path.unlink()
    file = CocoFile(path, CLASSES)
    file.add(NAMES[0], RESULTS[0])
    with pytest.raises(OutputError, match="another process is writing it"):
        write(path, resume=True)
    file.__exit__(KeyboardInterrupt, None, None)
    with pytest.raises(OutputError, match="it has other classes"):
        CocoFile(path, ("road",), resume=True)
    write(path, range(2), resume=True)
    assert len(json.loads(path.read_bytes())["images"]) == 2


def test_a_file_without_an_image(tmp_path: Path) -> None:
    write(tmp_path / "all.json", range(0))
    data = json.loads((tmp_path / "all.json").read_bytes())
    assert [each["name"] for each in data.pop("categories")] == list(CLASSES)
    assert data == {"images": [], "annotations": []}
    assert len(list(tmp_path.iterdir())) == 1
