"""COCO, LabelMe, CVAT and Label Studio: their exports, as images with shapes."""

from __future__ import annotations

import base64
import posixpath
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import numpy.typing as npt

from hrnet_zoo.datasets import shapes
from hrnet_zoo.datasets.exports import (
    Draw,
    Export,
    ImageFiles,
    IndexOf,
    Labeled,
    Labels,
    Shape,
    faults,
    paint_shapes,
    read_json,
    text,
)
from hrnet_zoo.datasets.pairing import SUFFIXES
from hrnet_zoo.datasets.shapes import Patch, Size
from hrnet_zoo.images.formats import image_errors, open_image

Json = dict[str, Any]

_NO_AREA = "skipped: not an area with a label (point, line, tag)"
_LATER = "the later one counts"


def read_coco(images: ImageFiles) -> Export:
    """Read COCO files of instances or stuff: polygons and run lengths; of shapes that overlap, the smaller counts.

    Classes are in the order of the categories' ids. All files with images, annotations and categories are read
    together. The split is the word train, val or test in the file's name, or else in that of its folder.
    """
    export = Export(overlaps="the smaller one counts")
    found: dict[str, list[Shape]] = {}
    for key, data in _json_files(images, "COCO", {"images", "annotations", "categories"}):
        with faults(key):
            names = {each["id"]: text(each["name"]) for each in sorted(data["categories"], key=lambda each: each["id"])}
            export.classes |= dict.fromkeys(names.values(), "")
            base, stem = posixpath.split(posixpath.splitext(key)[0])
            split = stem if re.search("train|val|test", stem, re.IGNORECASE) else posixpath.basename(base)
            of_id: dict[Any, str] = {}
            for each in data["images"]:
                image = of_id[each["id"]] = images.find(each["file_name"], base, stem.rpartition("_")[2])
                if image not in found:
                    draw = partial(paint_shapes, found.setdefault(image, []), True)
                    size = (each["width"], each["height"]) if "width" in each else None
                    export.images.append(Labeled(image, images.files[image], key, draw, size, split))
            for number, each in enumerate(data["annotations"]):
                if each["image_id"] not in of_id or each["category_id"] not in names:
                    where = f"image_id {each['image_id']!r:.40}, category_id {each['category_id']!r:.40}"
                    raise ValueError(f"annotation {number} of an unknown image or category ({where})")
                if each.get("segmentation"):
                    shape = names[each["category_id"]], partial(_coco_shape, each["segmentation"])
                    found[of_id[each["image_id"]]].append(shape)
                else:
                    export.count("skipped: box without a segmentation", "shape", 1)
    if not any(found.values()):
        raise images.refusal("no annotation with a segmentation")
    return export


def _coco_shape(segmentation: Any, size: Size) -> Patch:  # noqa: ANN401 - any JSON
    if isinstance(segmentation, dict):
        return shapes.coco_runs(segmentation, size)
    if any(len(ring) % 2 for ring in segmentation):
        raise ValueError("a polygon with an odd number of coordinates")
    rings = (shapes.polygon(np.reshape(ring, (-1, 2)), size) for ring in segmentation)
    return next(rings) if len(segmentation) == 1 else shapes.union(rings, size)


def read_labelme(images: ImageFiles) -> Export:
    """Read a LabelMe file for each image; the image lies where `imagePath` says, or else in `imageData`.

    Classes are in alphabetical order. A later shape lies over an earlier one, as in the tool.
    """
    export = Export(overlaps=_LATER)
    for key, data in _json_files(images, "LabelMe", {"shapes"}):
        with faults(key):
            found = list(_labelme_shapes(data))
            export.classes |= dict.fromkeys((label for label, _ in found), "")
            export.count(_NO_AREA, "shape", len(data["shapes"]) - len(found))
            try:
                image = images.find(data["imagePath"], posixpath.dirname(key))
                read = images.files[image]
            except ValueError:
                if not data.get("imageData"):
                    raise
                read = partial(_labelme_image, images, key)
                with image_errors(key), open_image(read(), whole=False) as header:
                    image = f"{posixpath.splitext(key)[0]}.{header.format.lower()}"
            size = (data["imageWidth"], data["imageHeight"]) if data.get("imageWidth") else None
            # Read again when its turn comes: the images in many files would fill the memory.
            export.images.append(Labeled(image, read, key, partial(_labelme_labels, images, key), size))
    export.classes = dict(sorted(export.classes.items()))
    export.count_unused(images)
    return export


def _labelme_image(images: ImageFiles, key: str) -> bytes:
    return base64.b64decode(read_json(images.files, key)["imageData"])


def _labelme_labels(images: ImageFiles, key: str, export: Export, size: Size, index_of: IndexOf) -> Labels:
    return paint_shapes(_labelme_shapes(read_json(images.files, key)), False, export, size, index_of)


def _labelme_shapes(data: Json) -> Iterator[Shape]:
    for each in data["shapes"]:
        kind, points = each.get("shape_type") or "polygon", shapes.numbers(each["points"])
        if kind in ("polygon", "oriented_rectangle"):
            draw: Draw = partial(shapes.polygon, points)
        elif kind == "rectangle":
            draw = partial(shapes.rectangle, [*points.min(axis=0), *points.max(axis=0)], 0, None)
        elif kind == "circle":
            center, rim = points
            draw = partial(shapes.ellipse, center, [np.hypot(*(rim - center))] * 2, 0)
        elif kind == "mask":
            draw = partial(_labelme_mask, int(points[0, 0]), int(points[0, 1]), each["mask"])
        elif kind in ("point", "points", "line", "linestrip"):
            continue
        else:
            raise ValueError(f"a shape of the unknown type {kind!r:.40}")
        yield text(each["label"]), draw


def _labelme_mask(left: int, top: int, mask: str, size: Size) -> Patch:
    with image_errors("the mask of a shape"), open_image(base64.b64decode(mask)) as header:
        inside = np.asarray(header.decode().convert("L")) > 0
    height, width = inside.shape
    shapes.check_place(left, top, (height, width), size)
    return Patch(top, left, inside)


class _NoDoctype(ET.TreeBuilder):
    """Refuses what declares entities, which unfold to any size or read other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        raise ValueError("a DOCTYPE, which no export of CVAT has")


def read_cvat(images: ImageFiles) -> Export:
    """Read "CVAT for images 1.1": polygons, boxes, ellipses and masks, the higher z_order over the lower.

    Classes, and their colors, are in the order of the task's labels; the split is the image's subset.
    """
    export = Export(overlaps="the one with the higher z_order counts, then the later one")
    for key in sorted(key for key in images.files if key.lower().endswith(".xml")):
        with faults(key):
            try:
                root = ET.fromstring(images.files[key](), ET.XMLParser(target=_NoDoctype()))  # noqa: S314 - see there
            except ET.ParseError as error:
                raise ValueError(f"no whole XML: {error}") from error
            if root.tag != "annotations":
                continue
            if root.find("track") is not None:
                raise ValueError("tracks of a video: export the task as CVAT for images 1.1")
            for each in root.iterfind("meta//label"):
                if each.find("parent") is None:  # else a point of a skeleton
                    export.classes[text(each.findtext("name"))] = each.findtext("color") or ""
            for each in root.iterfind("image"):
                image = images.find(each.attrib["name"], posixpath.dirname(key), subset := each.get("subset", ""))
                ordered = sorted(each, key=lambda shape: float(shape.get("z_order", 0)))
                found = [shape for one in ordered for shape in _cvat_shape(one.tag, one.attrib)]
                export.count(_NO_AREA, "shape", len(each) - len(found))
                size = int(each.attrib["width"]), int(each.attrib["height"])
                draw = partial(paint_shapes, found, False)
                export.images.append(Labeled(image, images.files[image], key, draw, size, subset))
    if not export.images:
        raise images.refusal("no XML file of CVAT with images")
    return export


def _cvat_shape(kind: str, attributes: Mapping[str, str]) -> Iterator[Shape]:
    """Yield the shape of an element, unless it has no area."""

    def floats(names: str) -> list[float]:
        return [float(attributes[name]) for name in names.split()]

    degrees = float(attributes.get("rotation", 0))
    if kind == "polygon":
        points = [list(map(float, point.split(","))) for point in attributes["points"].split(";")]
        draw: Draw = partial(shapes.polygon, points)
    elif kind == "box":
        draw = partial(shapes.rectangle, floats("xtl ytl xbr ybr"), degrees, None)
    elif kind == "ellipse":
        draw = partial(shapes.ellipse, floats("cx cy"), floats("rx ry"), degrees)
    elif kind == "mask":
        draw = partial(_cvat_mask, list(map(int, floats("left top width height"))), attributes["rle"])
    else:
        return
    yield text(attributes["label"]), draw


def _cvat_mask(box: list[int], rle: str, size: Size) -> Patch:
    left, top, width, height = box
    shapes.check_place(left, top, (height, width), size)
    return Patch(top, left, shapes.runs([int(run) for run in rle.split(",")], (height, width)))


def read_label_studio(images: ImageFiles) -> Export:
    """Read a JSON export of Label Studio: polygons, rectangles, ellipses and brushes, the later over the earlier.

    Classes are in alphabetical order. Of several annotations of a task the one created last counts. The images are not
    in the export: they are found by the last part of their address, also without the eight digits that an upload puts
    before it.
    """
    export = Export(overlaps=_LATER)
    for key, tasks in _json_files(images, "Label Studio", {"data", "annotations"}):
        for number, task in enumerate(tasks):
            with faults(key, f"task {number}"):
                done = [each for each in task["annotations"] if not each.get("was_cancelled")]
                if not done:
                    continue
                image = _label_studio_image(task["data"], images, posixpath.dirname(key))
                export.count("skipped: a later one of the same image counts", "annotation", len(done) - 1)
                results = max(done, key=lambda each: each.get("created_at") or "")["result"]
                found = [shape for result in results for shape in _label_studio_shape(result)]
                export.classes |= dict.fromkeys((label for label, _ in found), "")
                export.count(_NO_AREA, "shape", len(results) - len(found))
                stated = next((each for each in results if "original_width" in each), None)
                size = (stated["original_width"], stated["original_height"]) if stated else None
                draw = partial(paint_shapes, found, False)
                export.images.append(Labeled(image, images.files[image], key, draw, size))
    export.classes = dict(sorted(export.classes.items()))
    export.count_unused(images)
    return export


def _label_studio_image(data: Json, images: ImageFiles, base: str) -> str:
    addresses = [urlsplit(value) for value in data.values() if isinstance(value, str)]
    paths = [unquote(parse_qs(each.query).get("d", [each.path])[0]).lstrip("/") for each in addresses]
    paths = [path for path in paths if posixpath.splitext(path)[1].lower() in SUFFIXES]
    if len(paths) != 1:
        raise ValueError(f"data with {len(paths)} images")
    name = posixpath.basename(paths[0])
    for path in (paths[0], re.sub("^[0-9a-f]{8}-", "", name)):
        with suppress(ValueError):
            return images.find(path, base)
    return images.find(name, base)


def _label_studio_shape(result: Json) -> Iterator[Shape]:
    """Yield the shape of a result, unless it is no area with a label."""
    value = result.get("value", {})
    labels = [label for key in value if key.endswith("labels") for label in value[key]]
    if not labels or not value.keys() & {"rle", "points", "radiusX", "height"}:
        return
    if len(labels) > 1 or result.get("image_rotation"):
        raise ValueError("a region with several labels" if len(labels) > 1 else "an image that was turned in the tool")
    percent = shapes.numbers([result["original_width"], result["original_height"]], 2) / 100

    def pixels(across: str, down: str) -> npt.NDArray[np.float64]:
        return shapes.numbers([value[across], value[down]], 2) * percent

    degrees = value.get("rotation") or 0
    if "rle" in value:
        draw: Draw = partial(shapes.brush, value["rle"])
    elif "points" in value:
        draw = partial(shapes.polygon, shapes.numbers(value["points"]) * percent)
    elif "radiusX" in value:
        draw = partial(shapes.ellipse, pixels("x", "y"), pixels("radiusX", "radiusY"), degrees)
    else:
        start = pixels("x", "y")
        draw = partial(shapes.rectangle, [*start, *start + pixels("width", "height")], degrees, start)
    yield text(labels[0]), draw


def _json_files(images: ImageFiles, tool: str, keys: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the JSON files that are an object, or for Label Studio a list of such, with these keys, and their paths."""
    found = False
    for path in sorted(key for key in images.files if key.lower().endswith(".json")):
        data = read_json(images.files, path)
        first = data[0] if isinstance(data, list) and data and tool == "Label Studio" else data
        if isinstance(first, dict) and keys <= first.keys():
            found = True
            yield path, data
    if not found:
        raise images.refusal(f"no JSON file of {tool}")


# How files of each tool begin; the first pattern that matches decides.
_BEGINNINGS = {
    "labelme": rb'\s*\{.*"shapes"\s*:\s*\[',
    "label-studio": rb'\s*\[\s*\{.*"annotations"\s*:',
    "coco": rb'\s*\{.*"(?:images|categories|annotations)"\s*:\s*\[\s*\{',
    "cvat": rb".*<annotations>.*<(?:meta|image)\b",
}


def recognize_tool(folder: Path) -> str:
    """Return the form of the export of a labeling tool that a folder holds, for `prepare`; "" if it holds none."""
    for path in islice(folder.rglob("*"), 1000):
        if path.name == "labelmap.txt":
            return "color-masks"
        if path.suffix.lower() in (".json", ".xml") and path.is_file():
            with suppress(OSError), path.open("rb") as file:
                beginning = file.read(1 << 16)
                for tool, pattern in _BEGINNINGS.items():
                    if re.match(pattern, beginning, re.DOTALL):
                        return tool
    return ""
