"""The runner labels as `predict` does, reads photos as we do, needs neither torch nor us, and refuses in words."""

from __future__ import annotations

import ast
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_zoo.datasets import SCENES, Dataset
from hrnet_zoo.demo.scenes import scene
from hrnet_zoo.exporting import runner
from hrnet_zoo.exporting.runner import Segmenter, SegmenterError, read_photo
from hrnet_zoo.images.formats import open_image
from hrnet_zoo.images.preprocess import resize
from hrnet_zoo.images.read import read_image
from tests.support.images import encode, good_images
from tests.support.tiny_export import CLASSES, TinyModel, metadata, write_onnx

RUNNER = Path(runner.__file__)

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

WHOLE = dataclasses.replace(SCENES, resize_to=(192, 96), sliding_window=False)
SLIDES = dataclasses.replace(SCENES, resize_to=(150, 150), crop=(60, 60), sliding_window=True)
# Smaller and larger than the network's input, of its size, and tall.
SIZES = ((96, 192), (64, 128), (150, 181), (401, 97), (300, 611))


@pytest.mark.parametrize("outputs", ["labels", "logits"])
@pytest.mark.parametrize("dataset", [WHOLE, SLIDES], ids=["whole", "slides"])
def test_labels_are_those_of_predict(outputs: str, dataset: Dataset, tmp_path: Path) -> None:
    model = TinyModel(dataset)
    segmenter = Segmenter(write_onnx(tmp_path / "tiny.onnx", model, outputs))
    for seed, size in enumerate(SIZES):
        image = scene(seed, *size).image
        labels = segmenter(image)
        assert labels.dtype == np.uint8
        assert len(np.unique(labels)) > CLASSES // 3
        np.testing.assert_array_equal(labels, model.predict(image).mask, err_msg=str(size))


def test_openvino_labels_as_predict_does(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    model = TinyModel(WHOLE)
    converted = openvino.Core().read_model(write_onnx(tmp_path / "tiny.onnx", model))
    converted.set_rt_info(json.dumps(metadata(model, "labels")), ["hrnet_zoo"])
    openvino.save_model(converted, tmp_path / "tiny.xml", compress_to_fp16=False)
    image = scene(0, 150, 181).image
    np.testing.assert_array_equal(Segmenter(tmp_path / "tiny.xml")(image), model.predict(image).mask)


@pytest.mark.parametrize("sizes", [(97, 401, 33, 120), (33, 40, 500, 700), (64, 64, 64, 64), (1, 90, 40, 3)])
def test_the_resize_is_ours(sizes: tuple[int, int, int, int]) -> None:
    image = scene(0, 96, 192).image[: sizes[0], : sizes[1]] if sizes[0] < 96 else scene(0, *sizes[:2]).image
    np.testing.assert_array_equal(runner.resize(image, *sizes[2:]), resize(image, *sizes[2:]))


def test_photos_are_read_as_we_read_them() -> None:
    formats = set()
    for name, good in good_images().items():
        with open_image(good.data) as header:
            ours = header.format in runner.FORMATS and "that unfolds" not in name  # metadata that Pillow refuses
        if ours:
            formats.add(header.format)
            np.testing.assert_array_equal(read_photo(io.BytesIO(good.data)), read_image(good.data), err_msg=name)
        else:
            with pytest.raises(SegmenterError, match="cannot be read as a JPEG, PNG or WebP"):
                read_photo(io.BytesIO(good.data))
    assert formats == set(runner.FORMATS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_data_are_passed_over() -> None:
    image = Image.fromarray(scene(0, 64, 80).image)
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0nonsense"):
        data = encode(image, "JPEG", exif=exif)
        np.testing.assert_array_equal(read_photo(io.BytesIO(data)), read_image(data))


def test_pictures(tmp_path: Path) -> None:
    model = TinyModel(WHOLE)
    segmenter = Segmenter(write_onnx(tmp_path / "tiny.onnx", model))
    image = scene(0, 96, 192).image
    labels = segmenter(image)
    result = model.predict(image)
    assert segmenter.shares(labels) == pytest.approx(result.fractions())
    assert list(segmenter.shares(labels)) == list(result.fractions())
    assert segmenter.palette_image(labels).convert("RGB").tobytes() == result.colorize().tobytes()
    overlay = segmenter.overlay(image, labels)
    assert overlay.width > 192
    assert overlay.crop((0, 0, 192, 96)).tobytes() == result.overlay(legend=False).tobytes()
    shown = {color for _, color in overlay.crop((192, 0, *overlay.size)).getcolors(1 << 20) or []}
    assert {model.palette[index] for index in np.unique(labels)} <= shown


# --- a program of its own --------------------------------------------------------------------------------------------


def run_alone(*arguments: str | Path, code: int = 0) -> str:
    """Run a copy's command line in a process that can import neither torch nor this library."""
    program = (
        "import runpy, sys; sys.modules.update(torch=None, hrnet_zoo=None); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program, *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def test_the_command_needs_neither_torch_nor_us(tmp_path: Path) -> None:
    model = TinyModel(WHOLE)
    alone, photo, out = tmp_path / "alone.py", tmp_path / "street.jpg", tmp_path / "out"
    alone.write_bytes(RUNNER.read_bytes())
    Image.fromarray(scene(0, 100, 140).image).save(photo)
    write_onnx(tmp_path / "tiny.onnx", model)
    text = run_alone(alone, tmp_path / "tiny.onnx", photo, "--out", out)
    result = model.predict(photo)
    name, share = next(iter(result.fractions().items()))
    assert text == f"{photo}: " + ", ".join(f"{name} {share:.1%}" for name, share in result.fractions().items()) + "\n"
    assert name
    assert share
    assert sorted(path.name for path in out.iterdir()) == ["street_labels.png", "street_overlay.png"]
    with Image.open(out / "street_labels.png") as labels:
        assert labels.mode == "P"
        np.testing.assert_array_equal(np.asarray(labels), result.mask)


def test_it_is_short_and_imports_what_it_says() -> None:
    text = RUNNER.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 250
    tree = ast.parse(text)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"numpy", "PIL"}


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_commands_end_in_words(tmp_path: Path) -> None:
    Image.fromarray(scene(0, 100, 140).image).save(tmp_path / "street.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "broken.onnx").write_text("no network")
    write_onnx(tmp_path / "tiny.onnx", TinyModel(WHOLE))
    tiny, street = tmp_path / "tiny.onnx", tmp_path / "street.jpg"
    assert "cannot load" in run_alone(RUNNER, tmp_path / "broken.onnx", street, code=1)
    assert "cannot be read as a JPEG, PNG or WebP: it holds no image" in run_alone(
        RUNNER, tiny, tmp_path / "notes.txt", "--out", tmp_path, code=1
    )
    assert "File exists" in run_alone(RUNNER, tiny, street, "--out", street, code=1)
    assert "the same name" in run_alone(RUNNER, tiny, street, tmp_path / "more" / "street.png", code=2)


def test_files_that_are_no_exports(tmp_path: Path) -> None:
    import onnx

    (tmp_path / "broken.onnx").write_text("no network")
    (tmp_path / "notes.txt").write_text("no network")
    foreign = onnx.load(write_onnx(tmp_path / "foreign.onnx", TinyModel(WHOLE)))
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    write_onnx(tmp_path / "later.onnx", TinyModel(WHOLE), format=2)
    for name, words in {
        "missing.onnx": "is no .onnx or .xml file",
        "notes.txt": "is no .onnx or .xml file",
        "broken.onnx": "onnxruntime cannot load",
        "foreign.onnx": "is no file that hrnet-zoo exported",
        "later.onnx": "needs the runner.py that was written beside it",
    }.items():
        with pytest.raises(SegmenterError, match=words):
            Segmenter(tmp_path / name)


def test_photos_that_cannot_be_labeled(tmp_path: Path) -> None:
    segmenter = Segmenter(write_onnx(tmp_path / "tiny.onnx", TinyModel(WHOLE)))
    for array in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.float32), np.zeros((0, 40, 3), np.uint8)):
        with pytest.raises(SegmenterError, match="an array is RGB"):
            segmenter(array)
    with pytest.raises(SegmenterError, match="192 x 10 pixels; 33 a side are the least"):
        segmenter(np.zeros((100, 2000, 3), np.uint8))
    with pytest.raises(SegmenterError, match="No such file"):
        segmenter(tmp_path / "missing.jpg")
    broken = Segmenter(write_onnx(tmp_path / "nan.onnx", TinyModel(WHOLE), "logits", mean=(np.nan, 0.0, 0.0)))
    with pytest.raises(SegmenterError, match="infinite or not a number"):
        broken(np.full((96, 192, 3), 200, np.uint8))
    with pytest.raises(SegmenterError, match="20 x 10 pixels; the limit is 100"):
        read_photo(io.BytesIO(encode(Image.new("RGB", (20, 10)), "PNG")), max_pixels=100)


def test_lack_of_memory_ends_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    def out_of_memory(*_: object) -> None:
        raise segmenter._faults[0]("Failed to allocate memory for requested buffer of size 99")

    segmenter = Segmenter(write_onnx(tmp_path / "tiny.onnx", TinyModel(WHOLE)))
    monkeypatch.setattr(segmenter, "_run", out_of_memory)
    with pytest.raises(SegmenterError, match=r"cannot be run on this photo, perhaps for lack of memory.*size 99"):
        segmenter(np.zeros((100, 100, 3), np.uint8))
    monkeypatch.setattr(runner, "resize", exhausted)
    with pytest.raises(SegmenterError, match="memory is short"):
        segmenter(np.zeros((100, 100, 3), np.uint8))
