"""Downloads of aerial datasets become folders that are read; the tiles themselves: tests/slow/test_prepare.py."""

import errno
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hrnet_zoo
from hrnet_zoo.datasets import files as files_module
from hrnet_zoo.datasets.aerial import DOWNLOADS
from hrnet_zoo.datasets.layouts import find_samples
from hrnet_zoo.datasets.prepare import prepare
from hrnet_zoo.errors import ConfigError, DatasetError, ImageError, OutputError, OutputSpaceError
from tests.support import raw_downloads
from tests.support.raw_downloads import encoded, picture, zipped

MAKERS: dict[str, Callable[[Path], Path]] = {
    "loveda": raw_downloads.loveda,
    "potsdam": lambda home: raw_downloads.potsdam(home, {"2_10": (512, 512), "2_13": (700, 513)}),
    "vaihingen": lambda home: raw_downloads.vaihingen(home, {"area1": (520, 512), "area6": (512, 512)}),
    "isaid": lambda home: raw_downloads.isaid(
        home,
        {
            "train/P0000": ((60, 50), "RGB"),
            "val/P0003": ((1000, 600), "RGBA"),
            "val/P0005": ((896, 500), "L"),
            "test/P0006": ((70, 40), "RGB"),
        },
    ),
}
NAMES = {
    "loveda": ["2", "3"],
    "potsdam": ["2_13_0_0_512_512", "2_13_0_1_512_513", "2_13_188_0_700_512", "2_13_188_1_700_513"],
    "vaihingen": ["area6_0_0_512_512"],
    "isaid": ["P0003_0_896_0_896", "P0003_0_896_104_1000", "P0005_-396_500_0_896"],
}
every_dataset = pytest.mark.parametrize("key", MAKERS)


def test_splits_are_those_of_the_published_figures() -> None:
    numbers = {
        key: {split: len(set(names.split())) for split, names in DOWNLOADS[key].splits.items()}
        for key in ("potsdam", "vaihingen")
    }
    assert numbers == {"potsdam": {"train": 24, "val": 14}, "vaihingen": {"train": 16, "val": 17}}


@every_dataset
def test_a_download_becomes_a_folder_that_is_read(key: str, tmp_path: Path) -> None:
    source, out = MAKERS[key](tmp_path / "raw"), tmp_path / "out"
    report = prepare(key, source, out, progress=False)
    folder = find_samples(out, None)
    assert (folder.key, [sample.name for sample in folder.samples], folder.problems) == (key, NAMES[key], ())
    assert report.images["val"] == len(NAMES[key])
    assert report.written == len([path for path in out.rglob("*") if path.is_file()])
    assert hrnet_zoo.check_data(out, dataset=key, progress=False).ok
    assert [bool(report.notes), *(note for note in report.notes if "have no label color" not in note)] == [
        key != "loveda"
    ]


@pytest.mark.parametrize("key", ["loveda", "vaihingen"])
def test_unpacked_and_resumed(key: str, tmp_path: Path) -> None:
    """What is in the zip files may be unpacked beside them; files that are there are kept, unless force is set."""
    source = MAKERS[key](tmp_path / "raw")
    for path in source.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(path.parent)
    out = tmp_path / "out"
    whole = prepare(key, source, out, progress=False)
    made = {path: path.stat().st_mtime_ns for path in sorted(out.rglob("*.png"))}
    assert whole.written == len(made)
    lost, *_, kept = made
    lost.unlink()
    assert prepare(key, source, out, progress=False).written == 1
    assert kept.stat().st_mtime_ns == made[kept]
    assert prepare(key, source, out, force=True, progress=False).written == len(made)
    assert kept.stat().st_mtime_ns > made[kept]


def test_one_zip_file_or_split_is_enough(tmp_path: Path) -> None:
    source = raw_downloads.loveda(tmp_path / "raw")
    assert prepare("loveda", source / "Val.zip", tmp_path / "a", progress=False).images == {"val": 2}
    with zipfile.ZipFile(source / "Val.zip") as archive:
        archive.extractall(tmp_path)
    assert prepare("loveda", tmp_path / "Val", tmp_path / "b", progress=False).images == {"val": 2}


def test_values_and_padding(tmp_path: Path) -> None:
    source = raw_downloads.isaid(tmp_path / "raw", {"val/P0001": ((60, 50), "RGB")})
    prepare("isaid", source, tmp_path / "out", progress=False)
    (sample,) = find_samples(tmp_path / "out", None).samples
    with Image.open(sample.image) as image, Image.open(sample.labels) as labels:
        pixels, values = np.asarray(image), np.asarray(labels)
    assert pixels.shape == (896, 896, 3)
    np.testing.assert_array_equal(pixels[:50, :60], np.asarray(picture((60, 50))))
    assert not pixels[50:].any()
    assert (values[50:] == 255).all()
    assert (values[:, 60:] == 255).all()
    assert set(np.unique(values[:50, :60])) <= set(range(16))


def test_colors_that_the_reference_takes_for_a_class(tmp_path: Path) -> None:
    """It tells colors of Potsdam and Vaihingen apart by 4 red + 3 green + 2 blue alone: (0, 170, 0) is blue to it."""
    labels = Image.new("RGB", (512, 512), (0, 0, 255))
    labels.putpixel((0, 0), (0, 170, 0))
    labels.putpixel((1, 0), (1, 2, 3))
    source = raw_downloads.potsdam(tmp_path / "raw", {"2_13": (512, 512)})
    zipped(
        source / "5_Labels_all_noBoundary.zip",
        {"x/top_potsdam_2_13_label_noBoundary.tif": encoded(labels, format="TIFF")},
    )
    report = prepare("potsdam", source, tmp_path / "out", progress=False)
    with Image.open(tmp_path / "out/ann_dir/val/2_13_0_0_512_512.png") as image:
        assert np.unique(np.asarray(image), return_counts=True)[1].tolist() == [1, 512 * 512 - 1]
        assert image.getpixel((1, 0)) == 0
    (note,) = report.notes
    assert "noBoundary.tif: 2 pixels (0.00%) have no label color" in note


def remove_labels(raw: Path) -> str:
    (raw / "5_Labels_all_noBoundary.zip").unlink()
    return "no labels of this dataset among 4 files.*fetch 2_Ortho_RGB.zip"


def lose_one_label(raw: Path) -> str:
    with zipfile.ZipFile(raw / "5_Labels_all_noBoundary.zip") as archive:
        content = archive.read("top_potsdam_2_10_label_noBoundary.tif")
    zipped(raw / "5_Labels_all_noBoundary.zip", {"top_potsdam_2_10_label_noBoundary.tif": content})
    return r"no labels for 2_13 \(val\)"


def lose_one_image(raw: Path) -> str:
    with zipfile.ZipFile(raw / "2_Ortho_RGB.zip") as archive:
        content = archive.read("2_Ortho_RGB/top_potsdam_2_10_RGB.tif")
    zipped(raw / "2_Ortho_RGB.zip", {"top_potsdam_2_10_RGB.tif": content})
    return r"no image for 2_13 \(val\)"


def another_image(raw: Path) -> str:
    picture((512, 512)).save(raw / "top_potsdam_9_9_RGB.tif")
    return "top_potsdam_9_9_RGB.tif, which is in neither"


def twice(raw: Path) -> str:
    for folder in ("a", "b"):
        (raw / folder).mkdir()
        picture((512, 512)).save(raw / folder / "top_potsdam_2_10_RGB.tif")
    return "two files for one image: raw/a/.* and raw/b/"


def no_zip(raw: Path) -> str:
    (raw / "2_Ortho_RGB.zip").write_bytes(b"<html>please log in</html>")
    return "a zip file that is damaged, incomplete or encrypted"


def damaged_member(raw: Path) -> str:
    data = bytearray((raw / "2_Ortho_RGB.zip").read_bytes())
    data[2000:2100] = bytes(100)
    (raw / "2_Ortho_RGB.zip").write_bytes(data)
    return "a zip file that is damaged, incomplete or encrypted"


def photographs_as_labels(raw: Path) -> str:
    zipped(
        raw / "5_Labels_all_noBoundary.zip",
        {
            f"top_potsdam_{name}_label_noBoundary.tif": encoded(picture(size), format="TIFF")
            for name, size in {"2_10": (512, 512), "2_13": (700, 513)}.items()
        },
    )
    return "of its pixels have none of the label colors"


def other_size(raw: Path) -> str:
    picture((600, 600)).save(raw / "top_potsdam_2_13_RGB.tif")
    return r"2_13_RGB.tif has 600 x 600 pixels, .*noBoundary.tif has 700 x 513 pixels"


def too_small(raw: Path) -> str:
    for ending in ("RGB", "label_noBoundary"):
        picture((600, 511)).save(raw / f"top_potsdam_2_10_{ending}.tif")
    return "600 x 511 pixels, less than a tile of 512 x 512"


def large_member(raw: Path) -> str:
    files_module.MAX_BYTES = 1000
    return "2_Ortho_RGB/top_potsdam_2_10_RGB.tif of .* bytes; the limit is 1,000"


@pytest.mark.parametrize(
    "spoil",
    [
        *(remove_labels, lose_one_label, lose_one_image, another_image, twice, no_zip, damaged_member),
        *(photographs_as_labels, other_size, too_small, large_member),
    ],
)
def test_faults_of_a_download_in_words(
    spoil: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "MAX_BYTES", files_module.MAX_BYTES)
    found = spoil(MAKERS["potsdam"](tmp_path / "raw"))
    with pytest.raises(DatasetError, match=f"(?s){found}"):
        prepare("potsdam", tmp_path / "raw", tmp_path / "out", progress=False)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    source = MAKERS["potsdam"](tmp_path / "raw")
    (source / "top_potsdam_2_13_RGB.tif").write_bytes(b"II*\0 and nothing else")
    with pytest.raises(ImageError, match=r"raw/top_potsdam_2_13_RGB\.tif"):
        prepare("potsdam", source, tmp_path / "out", progress=False)


def test_nothing_to_read_and_nowhere_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        prepare("potsdam", tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images of this dataset among 0 files"):
        prepare("isaid", tmp_path / "empty", tmp_path / "out")
    source = raw_downloads.loveda(tmp_path / "raw")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="make the folder"):
        prepare("loveda", source, tmp_path / "file", progress=False)

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputSpaceError, match="No space left"):
        prepare("loveda", source, tmp_path / "out", progress=False)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("postdam", "the nearest names are potsdam"),
        ("cityscapes", "check-data FOLDER --dataset cityscapes"),
        ("x", "name one of loveda, potsdam, vaihingen, isaid"),
    ],
)
def test_unknown_names(name: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(name, tmp_path, tmp_path / "out")
    assert advice in caught.value.advice
