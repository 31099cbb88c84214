"""Image files of a folder, and which mask belongs to which image."""

import unicodedata
from pathlib import Path

import pytest

from hrnet_zoo.datasets.pairing import Problem, find_images, pair, stem


def paired(home: Path, images: list[str], labels: list[str]) -> tuple[dict[str, str], list[tuple[str, list[str]]]]:
    """Make empty files and return (image: mask) by relative names, and (kind, files) of the problems."""
    for folder, names in (("images", images), ("masks", labels)):
        for name in names:
            path = home / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    folders = home / "images", home / "masks"
    (found_images, _), (masks, _) = (find_images(folder, home) for folder in folders)
    named = [
        [(stem(path, folder), path) for path in paths]
        for paths, folder in zip((found_images, masks), folders, strict=True)
    ]
    samples, problems = pair(named[0], named[1], home)
    found = {str(s.image.relative_to(folders[0])): str(s.labels.relative_to(folders[1])) for s in samples}
    assert [sample.name for sample in samples] == sorted(sample.name for sample in samples)
    return found, [(problem.kind, list(problem.files)) for problem in problems]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a.png"),
        ("a.b.jpg", "a.b.png"),
        ("x/y/a.jpg", "x/y/a.png"),
        ("A.JPG", "a.png"),
        ("a.jpg", "a_mask.png"),
        ("a.jpg", "a_labelIds.png"),
        ("a.jpg", "a-seg.png"),
        ("a.jpg", "a gt.png"),
        ("a.jpg", "a.jpg.png"),
        ("a.jpg", "a.jpg_labels.png"),
        ("img_001.jpg", "mask_001.png"),
        ("image001.jpg", "label001.png"),
        ("a_leftImg8bit.png", "a_gtFine_labelTrainIds.png"),
        ("deep/a_rgb.png", "deep/a_label.png"),
        ("mask.jpg", "mask.png"),
        ("img.jpg", "img_mask.png"),
        ("Straße_1.jpg", "STRASSE_1.png"),
        (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.png")),
    ],
)
def test_names_that_pair_up(image: str, mask: str, tmp_path: Path) -> None:
    assert paired(tmp_path, [image, "other.jpg"], [mask, "other.png"]) == (
        {image: mask, "other.jpg": "other.png"},
        [],
    )


def test_an_exact_name_goes_before_a_similar_one(tmp_path: Path) -> None:
    found, problems = paired(tmp_path, ["a.jpg", "img_a.jpg"], ["a.png", "a_mask.png"])
    assert found == {"a.jpg": "a.png", "img_a.jpg": "a_mask.png"}
    assert not problems


def test_names_that_do_not_pair_up(tmp_path: Path) -> None:
    found, problems = paired(tmp_path, ["a.jpg", "x/b.jpg", "mask.jpg"], ["a1.png", "y/b.png", "label.png", "b.png"])
    assert not found
    assert problems == [
        ("image without mask", ["images/a.jpg", "images/mask.jpg", "images/x/b.jpg"]),
        ("mask without image", ["masks/a1.png", "masks/b.png", "masks/label.png", "masks/y/b.png"]),
    ]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a.jpg", "a.png"], ["a.png"]),
        (["a.jpg"], ["a.png", "a.bmp"]),
        (["a.jpg"], ["a_mask.png", "a_gt.png"]),
        (["img_a.jpg", "a_rgb.jpg"], ["a_mask.png"]),
        (["a.jpg"], ["a.png", "A.png"]),
        ([unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")], ["é.png"]),
    ],
)
def test_several_candidates_are_never_guessed_between(images: list[str], masks: list[str], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in images:
        (tmp_path / "images" / name).touch()
    if len(list((tmp_path / "images").iterdir())) < len(images):
        pytest.skip("this file system takes the two names for one")
    found, problems = paired(tmp_path, [*images, "z.jpg"], [*masks, "z.png"])
    assert found == {"z.jpg": "z.png"}
    if len(list((tmp_path / "masks").iterdir())) == len(masks) + 1:
        assert problems == [
            ("ambiguous names", sorted([f"images/{n}" for n in images] + [f"masks/{n}" for n in masks]))
        ]


def test_skipped_files_are_reported(tmp_path: Path) -> None:
    names = [".DS_Store", "._a.png", "Thumbs.db", "a.png", "b.PNG", "notes.txt", "__MACOSX/a.png", ".cache/a.png"]
    names += ["c.jfif", "IMG_1.HEIC", "d.nef"]
    for name in names:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    images, problems = find_images(tmp_path / "images", tmp_path)
    assert [path.name for path in images] == ["a.png", "b.PNG", "c.jfif"]
    unsupported, others = problems
    assert str(unsupported).startswith("unsupported photograph format: skipped (2: images/IMG_1.HEIC, images/d.nef)")
    assert others.files == ("images/notes.txt",)
    assert not unsupported.error
    assert not others.error


def test_links_are_followed_but_no_loop(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("images/a.png", "images/deep/b.png", "elsewhere/c.png"):
        (tmp_path / name).touch()
    (tmp_path / "images" / "deep" / "up").symlink_to(tmp_path / "images", target_is_directory=True)
    (tmp_path / "images" / "deep" / "self").symlink_to(tmp_path / "images" / "deep", target_is_directory=True)
    (tmp_path / "images" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "images" / "gone.png").symlink_to(tmp_path / "nothing.png")
    images, problems = find_images(tmp_path / "images", tmp_path)
    names = [path.relative_to(tmp_path / "images").as_posix() for path in images]
    assert names == ["a.png", "deep/b.png", "gone.png", "more/c.png"]
    assert not problems


def test_a_problem_in_words() -> None:
    files = tuple(f"{letter}.png" for letter in "abcdefg")
    assert str(Problem("RGB mask", "", "mend it", files[:1])) == "RGB mask: 1 file: a.png; mend it"
    many = Problem("ambiguous names", "several fit", "rename", files)
    assert many.found == "several fit (7: a.png, b.png, c.png, d.png, e.png and 2 more)"
    assert str(Problem("empty folder", "no images", "look")) == "empty folder: no images; look"
