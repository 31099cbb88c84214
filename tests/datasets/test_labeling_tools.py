"""Exports of labeling tools become masks that are written here by hand; damaged and hostile ones are errors."""

import base64
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.datasets.labeling_tools import recognize_tool
from hrnet_zoo.datasets.layouts import find_samples
from hrnet_zoo.datasets.prepare import Prepared, prepare
from hrnet_zoo.errors import ConfigError, DatasetError, HRNetZooError, ImageError, ImageTooLargeError, OutputError
from hrnet_zoo.images.label_maps import read_labels
from hrnet_zoo.inference.result import SegmentationResult
from tests.support.masks import random_mask

Mask = npt.NDArray[np.uint8]
SIZE = (8, 12)  # height, width
CORNERS = [[1, 1], [5, 1], [5, 4], [1, 4]]  # a box of rows 1 to 3 and columns 1 to 4


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 30)).save(path)
    return path


def boxes(*values: tuple[int, int, int, int, int], size: tuple[int, int] = SIZE, empty: int = 0) -> Mask:
    """Return a mask with boxes (top, bottom, left, right, value), a later one over the earlier."""
    mask = np.full(size, empty, np.uint8)
    for top, bottom, left, right, value in values:
        mask[top:bottom, left:right] = value
    return mask


def save(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def made(tool: str, home: Path, **options: Any) -> Prepared:
    return prepare(tool, home / "raw", home / "out", progress=False, **options)


def mask_of(home: Path, name: str = "a") -> Mask:
    return read_labels(home / f"out/masks/{name}.png")


def classes_of(home: Path) -> list[str]:
    return (home / "out/classes.txt").read_text().splitlines()


def coco(home: Path, **more: Any) -> dict[str, Any]:
    """Write a small COCO export, and return it."""
    picture(home / "raw/images/a.png")
    data = {
        "images": [{"id": 7, "file_name": "a.png", "width": 12, "height": 8}],
        "categories": [{"id": 9, "name": "road"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4]]},
            {"image_id": 7, "category_id": 9, "segmentation": [[0, 0, 12, 0, 12, 4, 0, 4], [0, 6, 3, 6, 3, 8, 0, 8]]},
            {"image_id": 7, "category_id": 3, "iscrowd": 1, "segmentation": {"size": [8, 12], "counts": [84, 4, 8]}},
            {"image_id": 7, "category_id": 3, "segmentation": {"size": [8, 12], "counts": "T24h0"}},  # 68, 4, 24
        ],
        **more,
    }
    save(home / "raw/annotations/instances_default.json", data)
    return data


def test_coco(tmp_path: Path) -> None:
    """The smaller shape lies on top wherever it stands; all parts of a shape count; run lengths go down the columns."""
    data = coco(tmp_path)
    data["annotations"].append({"image_id": 7, "category_id": 3, "segmentation": [[7.6, 5.6, 7.9, 5.6, 7.9, 5.9]]})
    data["annotations"].append({"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2]})
    save(tmp_path / "raw/annotations/instances_default.json", data)
    save(tmp_path / "raw/annotations/captions.json", {"images": [], "annotations": []})
    report = made("coco", tmp_path)
    assert classes_of(tmp_path) == ["background", "car", "road"]
    expected = boxes((0, 4, 0, 12, 2), (6, 8, 0, 3, 2), (1, 4, 1, 5, 1), (4, 8, 10, 11, 1), (4, 8, 8, 9, 1))
    np.testing.assert_array_equal(mask_of(tmp_path), expected)
    assert (tmp_path / "out/images/a.png").read_bytes() == (tmp_path / "raw/images/a.png").read_bytes()
    assert (report.images, report.written) == ({"": 1}, 3)
    assert report.notes == (
        "1 shape in 1 image: skipped: box without a segmentation",
        "12 pixels in 1 image: in shapes of several classes; the smaller one counts",
        "1 shape in 1 image: lost: no pixel has its center inside",
        "34 pixels in 1 image: without a label: background",
    )
    assert hrnet_zoo.check_data(tmp_path / "out", progress=False).ok


def labelme(home: Path, shapes: list[dict[str, Any]], name: str = "a", **more: Any) -> dict[str, Any]:
    """Write a LabelMe file beside its image, and return it."""
    picture(home / f"raw/{name}.png")
    data = {"shapes": shapes, "imagePath": f"{name}.png", "imageData": None, "imageHeight": 8, "imageWidth": 12, **more}
    save(home / f"raw/{name}.json", data)
    return data


def encoded(array: npt.NDArray[Any]) -> str:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_labelme(tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [
        {"label": "road", "shape_type": "rectangle", "points": [[12, 8], [0, 3.4]]},
        {"label": "car", "points": CORNERS},
        {"label": " car ", "shape_type": "circle", "points": [[8, 2], [8, 3.2]]},
        {"label": "__ignore__", "shape_type": "polygon", "points": [[10, 0], [12, 0], [12, 8], [10, 8]]},
        {"label": "car", "shape_type": "mask", "points": [[2, 6], [4, 7]], "mask": encoded(np.eye(2, 3) > 0)},
        {"label": "car", "shape_type": "linestrip", "points": [[2, 6], [4, 7]]},
    ]
    labelme(tmp_path, shapes)
    labelme(tmp_path, [], name="sub/none", imagePath="..\\sub\\none.png")
    picture(tmp_path / "raw/unlabeled.png")
    report = made("labelme", tmp_path)
    expected = boxes(
        (3, 8, 0, 12, 2), (1, 4, 1, 5, 1), (1, 3, 7, 9, 1), (0, 8, 10, 12, 255), (6, 7, 2, 3, 1), (7, 8, 3, 4, 1)
    )
    np.testing.assert_array_equal(mask_of(tmp_path), expected)
    assert not mask_of(tmp_path, "sub/none").any()
    assert classes_of(tmp_path) == ["background", "car", "road"]
    assert report.notes == (
        "1 shape in 1 image: skipped: not an area with a label (point, line, tag)",
        "1 image: skipped: no labels",
        "16 pixels in 1 image: in shapes of several classes; the later one counts",
        f"{np.count_nonzero(expected == 0) + 96} pixels in 2 images: without a label: background",
        "1 image: without any shape",
    )


def test_labelme_without_the_image_beside(tmp_path: Path) -> None:
    """The copy within the file takes its place, wherever the path leads."""
    data = labelme(tmp_path, [{"label": "car", "points": CORNERS}], imagePath="/home/me/a.png")
    data["imageData"] = base64.b64encode((tmp_path / "raw/a.png").read_bytes()).decode()
    (tmp_path / "raw/a.png").rename(tmp_path / "elsewhere.png")
    save(tmp_path / "raw/a.json", data)
    made("labelme", tmp_path)
    assert (tmp_path / "out/images/a.png").read_bytes() == (tmp_path / "elsewhere.png").read_bytes()
    np.testing.assert_array_equal(mask_of(tmp_path), boxes((1, 4, 1, 5, 1)))
    assert prepare("labelme", tmp_path / "raw/a.json", tmp_path / "alone", progress=False).images == {"": 1}


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>road</name><color>#804080</color></label><label><name>car</name><color>#0000ff</color></label>
<label><name>1</name><color>#123456</color><parent>hand</parent></label>
</labels></task></meta>
<image id="0" name="a.png" width="12" height="8" subset="Train">
  <polygon label="car" points="1,1;5,1;5,4;1,4" z_order="1"><attribute name="x">1</attribute></polygon>
  <box label="road" xtl="0" ytl="2.5" xbr="12" ybr="8" z_order="0"/>
  <mask label="car" rle="0, 1, 3, 2" left="10" top="5" width="2" height="3" z_order="0"/>
  <ellipse label="car" cx="8" cy="2" rx="1.2" ry="1.2" z_order="0"/>
  <polyline label="car" points="1,1;5,1" z_order="0"/>
</image>
<image id="1" name="frame_1" width="12" height="8" subset="Validation"/>
</annotations>"""


def cvat(home: Path, xml: str = CVAT) -> None:
    picture(home / "images/Train/a.png")
    picture(home / "images/Validation/a.png")
    picture(home / "images/Validation/frame_1.PNG")
    (home / "raw.zip").unlink(missing_ok=True)
    with zipfile.ZipFile(home / "raw.zip", "w") as archive:
        for path in sorted(home.glob("images/*/*")):
            archive.write(path, path.relative_to(home))
        archive.writestr("annotations.xml", xml)


def test_cvat(tmp_path: Path) -> None:
    """The zip file as it is; subsets become train/ and val/; a frame has no ending; the higher z_order is on top."""
    cvat(tmp_path)
    report = prepare("cvat", tmp_path / "raw.zip", tmp_path / "out", progress=False)
    assert classes_of(tmp_path) == ["background", "road #804080", "car #0000ff"]
    expected = boxes((2, 8, 0, 12, 1), (5, 6, 10, 11, 2), (7, 8, 10, 12, 2), (1, 3, 7, 9, 2), (1, 4, 1, 5, 2))
    np.testing.assert_array_equal(read_labels(tmp_path / "out/train/masks/a.png"), expected)
    assert not read_labels(tmp_path / "out/val/masks/frame_1.png").any()
    assert report.images == {"train": 1, "val": 1}
    assert (tmp_path / "out/val/images/frame_1.PNG").is_file()
    assert find_samples(tmp_path / "out", None, "train").classes == ("background", "road", "car")


def test_label_studio(tmp_path: Path) -> None:
    """Percent of the sides; the annotation that was created last; images by the last part of their address."""

    def result(kind: str, label: str, **value: Any) -> dict[str, Any]:
        return {"type": kind, "original_width": 12, "original_height": 8, "value": {**value, kind: [label]}}

    words = f"{96 * 4:032b}" + f"{7:05b}" + f"{2:04b}{3:04b}{7:04b}{15:04b}"
    words += "1" + "11" + f"{4 * 90 - 1:016b}" + f"{0:08b}" + "1" + "10" + f"{4 * 6 - 1:08b}" + f"{255:08b}"
    words += "0" * (-len(words) % 8)
    brush = [int(words[at : at + 8], 2) for at in range(0, len(words), 8)]
    results = [
        result("rectanglelabels", "road", x=0, y=37.5, width=100, height=62.5, rotation=0),
        result("polygonlabels", "car", points=[[100 / 12 * x, 12.5 * y] for x, y in CORNERS]),
        result("ellipselabels", "car", x=100 * 8 / 12, y=25, radiusX=10, radiusY=15, rotation=0),
        {**result("brushlabels", "sky", format="rle", rle=brush), "id": "b"},
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    tasks = [
        {
            "id": 1,
            "data": {"image": "/data/upload/1/0a1b2c3d-a.png"},
            "annotations": [
                {"created_at": "2024-05-02", "result": results},
                {"created_at": "2024-05-01", "result": []},
                {"created_at": "2024-05-03", "was_cancelled": True, "result": []},
            ],
        },
        {"id": 2, "data": {"image": "/data/local-files/?d=x/b%20c.png"}, "annotations": [{"result": []}]},
        {"id": 3, "data": {"image": "s3://bucket/d.png"}, "annotations": []},
    ]
    save(tmp_path / "raw/export.json", tasks)
    for name in ("a", "b c", "d"):
        picture(tmp_path / f"raw/media/{name}.png")
    report = made("label-studio", tmp_path)
    expected = boxes((3, 8, 0, 12, 2), (1, 4, 1, 5, 1), (1, 3, 7, 9, 1), (7, 8, 6, 12, 3))
    np.testing.assert_array_equal(mask_of(tmp_path), expected)
    assert not mask_of(tmp_path, "b c").any()
    assert classes_of(tmp_path) == ["background", "car", "road", "sky"]
    assert report.notes[:3] == (
        "1 annotation in 1 image: skipped: a later one of the same image counts",
        "1 shape in 1 image: skipped: not an area with a label (point, line, tag)",
        "1 image: skipped: no labels",
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("empty", ["background", "ignore"])
def test_what_results_export_comes_back(seed: int, empty: str, tmp_path: Path) -> None:
    """`to_coco` and `to_labelme` give the same mask, class by class, with pixels of no class or without."""
    mask = random_mask(seed, longest=40)
    classes = ("background", "road", "sky", "naïve", "tree") if empty == "background" else ("a", "b", "c", "d", "e")
    result = SegmentationResult(np.zeros((*mask.shape, 3), np.uint8), mask, classes, ((0, 0, 0),) * 5)
    for tool, data in (("coco", result.to_coco("a.png")), ("labelme", result.to_labelme("a.png"))):
        home = tmp_path / tool
        save(home / "raw/a.json", data)
        Image.fromarray(result.image).save(home / "raw/a.png")
        made(tool, home, classes=classes, empty=empty)
        np.testing.assert_array_equal(mask_of(home), mask)


def test_ignored_pixels_come_back(tmp_path: Path) -> None:
    """Of what no region holds, COCO keeps all; LabelMe what is no hole."""
    mask = random_mask(1, longest=30)
    mask[:, :2] = 255
    result = SegmentationResult(np.zeros((*mask.shape, 3), np.uint8), mask, ("a", "b", "c", "d", "e"), ((0, 0, 0),) * 5)
    save(tmp_path / "raw/x.json", result.to_coco("a.png"))
    Image.fromarray(result.image).save(tmp_path / "raw/a.png")
    report = made("coco", tmp_path, empty="ignore")
    np.testing.assert_array_equal(mask_of(tmp_path), mask)
    assert report.notes == (f"{np.count_nonzero(mask == 255)} pixels in 1 image: without a label: ignored",)


def test_classes_and_empty_pixels(tmp_path: Path) -> None:
    coco(tmp_path)
    made("coco", tmp_path, classes=["road", "car"], empty="ignore")
    assert classes_of(tmp_path) == ["road", "car"]
    assert mask_of(tmp_path)[[1, 0, 7], [1, 0, 11]].tolist() == [1, 0, 255]
    with pytest.raises(OutputError, match="other content"):
        made("coco", tmp_path, classes=["road", "car", "Background"])
    assert classes_of(tmp_path) == ["road", "car"]
    made("coco", tmp_path, classes=["road", "car", "Background"], force=True)
    assert mask_of(tmp_path)[[1, 0, 7], [1, 0, 11]].tolist() == [1, 0, 2]
    with pytest.raises(DatasetError, match=r"shape 1, 'car': the label 'car' is none of the classes background, road"):
        made("coco", tmp_path, classes=["road"], force=True)
    for wrong in ({"classes": ["a", "a"]}, {"classes": "road"}, {"empty": "black"}, {"classes": [""]}):
        with pytest.raises(ConfigError, match="prepare coco"):
            made("coco", tmp_path, **wrong)
    with pytest.raises(ConfigError, match="1 classes, road, where 2 to 255"):
        made("coco", tmp_path, classes=["road"], empty="ignore")
    with pytest.raises(ConfigError, match="fixed"):
        prepare("loveda", tmp_path, tmp_path / "out", empty="ignore")


def test_splits_of_coco(tmp_path: Path) -> None:
    """By the file's name, or the folder's; one alone makes no folders."""
    data = coco(tmp_path)
    (tmp_path / "raw/annotations/instances_default.json").unlink()
    for split, folder in (("train2017", "train2017"), ("val2017", "val2017")):
        picture(tmp_path / f"raw/{folder}/a.png")
        save(tmp_path / f"raw/annotations/instances_{split}.json", data)
    (tmp_path / "raw/images/a.png").unlink()
    assert made("coco", tmp_path).images == {"train": 1, "val": 1}
    assert (tmp_path / "out/val/masks/a.png").is_file()
    (tmp_path / "raw/annotations/instances_val2017.json").unlink()
    with pytest.raises(OutputError, match=r"train.images.a\.png, which is not of this export"):
        made("coco", tmp_path)
    assert prepare("coco", tmp_path / "raw", tmp_path / "plain", progress=False).images == {"": 1}
    for split in ("train", "valid"):
        picture(tmp_path / f"flow/{split}/a.png")
        save(tmp_path / f"flow/{split}/_annotations.coco.json", data)
    assert prepare("coco", tmp_path / "flow", tmp_path / "flown", progress=False).images == {"train": 1, "val": 1}


def test_images_that_are_there_are_kept(tmp_path: Path) -> None:
    coco(tmp_path)
    made("coco", tmp_path)
    assert made("coco", tmp_path).written == 0
    mask = (tmp_path / "out/masks/a.png").read_bytes()
    for name in ("images/a.png", "masks/a.png"):
        (tmp_path / "out" / name).write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"masks.a\.png.*\n.*other content.*\n.*not replaced.*\n.*--force"):
        made("coco", tmp_path)
    assert all((tmp_path / "out" / name).read_bytes() == b"mine" for name in ("images/a.png", "masks/a.png"))
    assert made("coco", tmp_path, force=True).written == 3
    assert (tmp_path / "out/masks/a.png").read_bytes() == mask
    for _ in range(2):  # what the first run made is no part of the export
        assert prepare("coco", tmp_path / "raw", tmp_path / "raw/out", progress=False).images == {"": 1}
    with pytest.raises(ConfigError, match="is the folder of the export"):
        prepare("coco", tmp_path / "raw", tmp_path / "raw")


def broken(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Return what writes a COCO export that was changed."""

    def write(home: Path) -> None:
        data = coco(home)
        change(data)
        save(home / "raw/annotations/instances_default.json", data)

    return write


def segmentation(value: Any) -> Callable[[Path], None]:
    return broken(lambda data: data["annotations"][0].update(segmentation=value))


FAULTS_OF_COCO: dict[str, Callable[[Path], object]] = {
    "Expecting": lambda home: [coco(home), save(home / "raw/annotations/instances_default.json", '{"images": [')],
    "not UTF-8|utf-8": lambda home: [coco(home), (home / "raw/x.json").write_bytes(b'{"\xff": 1}')],
    "content of an unexpected form": lambda home: [coco(home), save(home / "raw/x.json", "[" * 100_000)],
    "NaN, which is no number": segmentation([[float("nan"), 1, 5, 1, 5, 4]]),
    "shape 1, 'car': a polygon with 2 points": segmentation([[1, 1, 5, 1]]),
    "an odd number of coordinates": segmentation([[1, 1, 5, 1, 5, 4, 1]]),
    "shape 1, 'car': .*string": segmentation([["a", 1, 5, 1, 5, 4]]),
    "shape 1, 'car': content of an unexpected form": segmentation(7),
    "do not add up to 8 x 12|add up": segmentation({"size": [8, 12], "counts": [5, 6]}),
    "damaged run lengths": segmentation({"size": [8, 12], "counts": "\n"}),
    r"for the size \[12, 8\]": segmentation({"size": [12, 8], "counts": [96]}),
    "no 'counts'": segmentation({"size": [8, 12]}),
    "no annotation with a segmentation": broken(lambda data: data.update(annotations=[])),
    "annotation 0 of an unknown image or category": broken(lambda data: data["annotations"][0].update(category_id=1)),
    "no 'file_name'": broken(lambda data: data["images"][0].pop("file_name")),
    "'missing.png', which is missing": broken(lambda data: data["images"][0].update(file_name="missing.png")),
    "'../../../a.png', which is not below": broken(lambda data: data["images"][0].update(file_name="../../../a.png")),
    "'/etc/a.png', which is not below": broken(lambda data: data["images"][0].update(file_name="/etc/a.png")),
    "'C:.*a.png', which is not below": broken(lambda data: data["images"][0].update(file_name="C:\\a.png")),
    r"the size \(13, 8\) is 12 x 8": broken(lambda data: data["images"][0].update(width=13)),
    "5 where a label is expected": broken(lambda data: data["categories"][0].update(name=5)),
    "names that a class list cannot hold": broken(lambda data: data["categories"][0].update(name="a\nb")),
    "which is there 2 times": lambda home: [coco(home), picture(home / "raw/more/a.png")],
    "no JSON file of COCO among 1 files": lambda home: picture(home / "raw/a.png"),
}


@pytest.mark.parametrize("found", FAULTS_OF_COCO)
def test_faults_of_coco_in_words(found: str, tmp_path: Path) -> None:
    FAULTS_OF_COCO[found](tmp_path)
    with pytest.raises(DatasetError, match=found) as caught:
        made("coco", tmp_path)
    assert caught.value.asked.startswith("prepare ")


def test_two_images_of_one_mask(tmp_path: Path) -> None:
    labelme(tmp_path, [{"label": "car", "points": CORNERS}])
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "raw/a.jpg")
    save(tmp_path / "raw/b.json", {"shapes": [], "imagePath": "a.jpg"})
    with pytest.raises(
        DatasetError, match=r"two masks of one name: raw/a\.jpg and raw/a\.png \(labeled in raw/a\.json\)"
    ):
        made("labelme", tmp_path)
    save(tmp_path / "raw/b.json", {"shapes": [], "imagePath": "a.png"})
    with pytest.raises(DatasetError, match=r"raw/a\.png and raw/a\.png \(labeled in raw/a\.json\)"):
        made("labelme", tmp_path)


def bomb(depth: int = 9) -> str:
    entities = "".join(f'<!ENTITY e{level} "{f"&e{level - 1};" * 10}">' for level in range(1, depth))
    return f'<!DOCTYPE x [<!ENTITY e0 "x">{entities}]><annotations>&e{depth - 1};</annotations>'


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (CVAT, bomb(), "a DOCTYPE"),
        (CVAT, '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations/>', "a DOCTYPE"),
        ("</annotations>", "", "no whole XML"),
        ('rle="0, 1, 3, 2"', 'rle="0, 1, 3, 3"', "shape 2, 'car': run lengths that do not add up to 2 x 3 pixels"),
        ('width="2" height="3"', 'width="2000000" height="3000000"', "which reaches out of the image"),
        ('left="10"', 'left="-1"', "which reaches out of the image"),
        ("1,1;5,1;5,4;1,4", "1,1;5,1", "a polygon with 2 points"),
        ("1,1;5,1;5,4;1,4", "1,1;5,1;nan,4", "a coordinate that is no number"),
        ("1,1;5,1;5,4;1,4", "1,1;5", "inhomogeneous|unexpected|points"),
        ('label="road" xtl', 'label="tree" xtl', "'tree' is none of the classes background, road, car"),
        ('label="road" xtl', "xtl", "no 'label'"),
        ('xtl="0"', 'xtl="east"', "could not convert"),
        ('width="12" height="8" subset="Train"', 'width="12" height="9" subset="Train"', "is 12 x 8 pixels"),
        ('name="a.png"', 'name="../../a.png"', "which is not below"),
        ('name="a.png"', 'name="b.png"', "which is missing"),
        ("<image id", "<track/><image id", "tracks of a video"),
        (CVAT, "<annotation/>", "no XML file of CVAT with images among 4 files"),
    ],
)
def test_faults_of_cvat_in_words(old: str, new: str, found: str, tmp_path: Path) -> None:
    assert old in CVAT
    cvat(tmp_path, CVAT.replace(old, new, 1))
    with pytest.raises(DatasetError, match=found):
        prepare("cvat", tmp_path / "raw.zip", tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("shape", "more", "found"),
    [
        ({"shape_type": "star", "points": CORNERS}, {}, "unknown type 'star'"),
        ({"shape_type": "circle", "points": CORNERS}, {}, "too many values"),
        ({"shape_type": "mask", "points": CORNERS[:2], "mask": encoded(np.eye(9) > 0)}, {}, "reaches out of the image"),
        ({"points": CORNERS[:2]}, {}, "shape 1, 'car': a polygon with 2 points"),
        ({"points": None}, {}, "unexpected|number"),
        ({"label": None, "points": CORNERS}, {}, "None where a label"),
        ({"points": CORNERS}, {"imageWidth": 11}, "is 12 x 8 pixels"),
        ({"points": CORNERS}, {"imagePath": "../b.png"}, "which is not below"),
        ({"points": CORNERS}, {"imagePath": None}, "unexpected form"),
        ({"points": CORNERS}, {"imagePath": "b.png", "imageData": "AAAAA"}, "padding|base64"),
    ],
)
def test_faults_of_labelme_in_words(shape: Any, more: Any, found: str, tmp_path: Path) -> None:
    labelme(tmp_path, [{"label": "car", **shape}], **more)
    with pytest.raises((DatasetError, ImageError), match=found):
        made("labelme", tmp_path)


def test_damaged_and_huge_images(tmp_path: Path) -> None:
    labelme(tmp_path, [{"label": "car", "shape_type": "mask", "points": CORNERS[:2], "mask": "AAAA"}])
    with pytest.raises(ImageError):
        made("labelme", tmp_path)
    labelme(tmp_path, [{"label": "car", "points": CORNERS}])
    (tmp_path / "raw/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageError, match=r"raw/a\.png"):
        made("labelme", tmp_path)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "raw/a.png")
    with pytest.raises(ImageTooLargeError):
        made("labelme", tmp_path)


def test_a_member_that_leads_out_of_its_zip_file(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    data = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    with zipfile.ZipFile(tmp_path / "raw.zip", "w") as archive:
        for name in ("../../a.json", "/b.json", "c.json"):
            archive.writestr(
                name,
                json.dumps({"shapes": [{"label": "x", "points": CORNERS}], "imagePath": "d.png", "imageData": data}),
            )
    assert prepare("labelme", tmp_path / "raw.zip", tmp_path / "deep/out", progress=False).images == {"": 1}
    assert {path.name for path in tmp_path.rglob("*.png")} == {"a.png", "c.png"}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"points": [[1, 1], [50, 50]], "polygonlabels": ["car"]}, "shape 1, 'car': a polygon with 2 points"),
        ({"points": CORNERS, "polygonlabels": ["car", "road"]}, "a region with several labels"),
        ({"rle": [0, 0, 1, 128], "brushlabels": ["car"]}, "break off"),
        ({"rle": [300], "brushlabels": ["car"]}, "range"),
        ({"x": 1, "y": 1, "height": 5, "rectanglelabels": ["car"]}, "task 0: no 'width'"),
    ],
)
def test_faults_of_label_studio_in_words(value: Any, found: str, tmp_path: Path) -> None:
    picture(tmp_path / "raw/a.png")
    result = {"type": "x", "original_width": 12, "original_height": 8, "value": value}
    tasks = [{"data": {"image": "a.png"}, "annotations": [{"result": [result]}]}]
    save(tmp_path / "raw/x.json", tasks)
    with pytest.raises(DatasetError, match=found):
        made("label-studio", tmp_path)
    result["image_rotation"] = 90
    save(tmp_path / "raw/x.json", tasks)
    with pytest.raises(DatasetError, match=r"several labels|turned in the tool"):
        made("label-studio", tmp_path)
    tasks[0]["data"] = {"text": "hello"}
    save(tmp_path / "raw/x.json", tasks)
    with pytest.raises(DatasetError, match="data with 0 images"):
        made("label-studio", tmp_path)


def test_check_data_and_finetune_name_the_tool(tmp_path: Path) -> None:
    assert recognize_tool(tmp_path) == ""
    coco(tmp_path / "coco")
    labelme(tmp_path / "labelme", [{"label": "car", "points": CORNERS}])
    save(tmp_path / "cvat/raw/annotations.xml", CVAT)
    save(tmp_path / "label-studio/raw/x.json", [{"id": 1, "annotations": [{"result": []}], "data": {"image": "a.png"}}])
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "color-masks/raw" / folder).mkdir(parents=True)
    (tmp_path / "color-masks/raw/ImageSets/Segmentation/default.txt").write_text("a")
    (tmp_path / "color-masks/raw/labelmap.txt").write_text("car:1,2,3::")
    for tool in ("coco", "labelme", "cvat", "label-studio", "color-masks"):
        root = tmp_path / tool / "raw"
        for call in (
            lambda root=root: hrnet_zoo.check_data(root),
            lambda root=root: hrnet_zoo.finetune("demo", root, tmp_path / "run"),
        ):
            with pytest.raises(HRNetZooError, match=f"these look like files of {tool}") as caught:
                call()
            assert caught.value.advice == f"run: hrnet-zoo prepare {tool} {root} DST"
    archive = shutil.make_archive(str(tmp_path / "task"), "zip", root)
    with pytest.raises(DatasetError, match=f"hrnet-zoo prepare FORMAT {archive} DST"):
        hrnet_zoo.check_data(archive)
