"""Training and validation splits: by folder, fraction, list or official split."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from hrnet_zoo.datasets import ADE20K, CITYSCAPES
from hrnet_zoo.datasets.label_rules import identity
from hrnet_zoo.datasets.layouts import LabeledFolder
from hrnet_zoo.datasets.splits import find_training_data
from hrnet_zoo.demo.dataset import write_dataset
from hrnet_zoo.errors import ConfigError, DatasetError
from tests.support.label_folders import ade20k, cityscapes, own, pascal_context, voc12

NAMES = ("sky", "road", "car")
HELD = ["010", "023"]  # those whose names' SHA-256 begins below a tenth
FORTY = tuple(f"{number:03d}" for number in range(40))


def names(folder: LabeledFolder | None) -> list[str]:
    assert folder is not None
    return [sample.name for sample in folder.samples]


def names_of_splits(home: Path, **options: Any) -> tuple[list[str], list[str]]:
    train, val, _ = find_training_data(home, **options)
    return names(train), names(val) if val else []


@pytest.fixture
def forty(tmp_path: Path) -> Path:
    return own(tmp_path / "data", FORTY, NAMES)


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    own(tmp_path / "divided/train", ("a", "b", "c"))
    own(tmp_path / "divided/val", ("d", "e"))
    (tmp_path / "divided/classes.txt").write_text("\n".join(NAMES))
    return tmp_path / "divided"


def test_a_tenth_is_held_out(forty: Path) -> None:
    train, val = names_of_splits(forty)
    assert val == HELD
    assert sorted(train + val) == list(FORTY)
    assert find_training_data(forty)[2] == NAMES


def test_any_fraction(forty: Path) -> None:
    sizes = [len(names_of_splits(forty, val=fraction)[1]) for fraction in (1e-9, 0.1, 0.3, 0.5, 0.999999)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 39
    assert 12 <= sizes[3] <= 28


def test_images_that_are_added_move_no_other(tmp_path: Path) -> None:
    home = own(tmp_path, FORTY, NAMES)
    before = names_of_splits(home, val=0.25)
    own(home, [f"new_{number}" for number in range(30)])
    after = names_of_splits(home, val=0.25)
    assert set(before[0]) <= set(after[0])
    assert set(before[1]) <= set(after[1])
    assert len(after[0]) + len(after[1]) == 70


def test_no_validation(forty: Path, divided: Path) -> None:
    for home, expected in ((forty, 40), (divided, 3)):
        train, val, _ = find_training_data(home, val=0)
        assert val is None
        assert len(train.samples) == expected


def test_train_and_val_folders(divided: Path) -> None:
    train, val, classes = find_training_data(divided)
    assert (names(train), names(val)) == (["a", "b", "c"], ["d", "e"])
    assert classes == train.classes == NAMES
    assert val is not None
    assert val.classes == NAMES
    assert len(names_of_splits(divided, val=0.4)[0]) < 3  # a fraction of the training split


@pytest.mark.parametrize("word", ["valid", "validation", "test", "testing"])
def test_other_names_of_the_val_split(divided: Path, word: str) -> None:
    (divided / "val").rename(divided / word)
    train, val, _ = find_training_data(divided)
    assert (names(train), names(val)) == (["a", "b", "c"], ["d", "e"])
    assert val is not None
    assert val.split == word


def test_a_test_split_without_masks_is_not_used(divided: Path) -> None:
    (divided / "val").rename(divided / "test")
    shutil.rmtree(divided / "test/masks")
    train, val = names_of_splits(divided)
    assert sorted(train + val) == ["a", "b", "c"]


def test_custom_classes_in_official_folders(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        ade20k(tmp_path / "a", (split,), split)
    found = find_training_data(tmp_path / "a", classes=NAMES)
    assert found[2] == found[0].classes == NAMES
    assert (found[0].rule, found[1] and found[1].rule) == (identity(3), identity(3))
    (tmp_path / "a/classes.txt").write_text("\n".join(NAMES))
    assert find_training_data(tmp_path / "a") == found
    voc12(tmp_path / "v", ("t", "u"), "train")
    train, val = names_of_splits(tmp_path / "v", classes=NAMES)  # there is no val split
    assert sorted(train + val) == ["t", "u"]


def test_train_without_val(divided: Path) -> None:
    shutil.rmtree(divided / "val")
    train, val = names_of_splits(divided)
    assert sorted(train + val) == ["a", "b", "c"]
    assert len(val) == 1


def test_splits_inside_images_and_masks(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("validation", "b")):
        own(tmp_path, [f"{split}/{name}"])
    assert names_of_splits(tmp_path, classes=NAMES) == (["a"], ["b"])


def test_val_by_a_list_of_names(tmp_path: Path) -> None:
    home = own(tmp_path / "data", ("a", "deep/b", "c.1", "d"), NAMES)
    listing = tmp_path / "val.txt"
    listing.write_text("deep/b.jpg\n\n c.1 \n")
    assert names_of_splits(home, val=listing) == (["a", "d"], ["c.1", "deep/b"])
    assert names_of_splits(home, val=str(listing)) == (["a", "d"], ["c.1", "deep/b"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a\nx\ny\n", "is named x, y"),
        (b"\n", "no names"),
        (b"a\ndeep/b", "none is left to train on"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: bytes | None, words: str) -> None:
    home = own(tmp_path / "data", classes=NAMES)
    listing = tmp_path / "val.txt"
    if text is not None:
        listing.write_bytes(text)
    with pytest.raises(DatasetError, match=words) as caught:
        find_training_data(home, val=listing)
    assert caught.value.path == listing


def test_val_by_another_folder(forty: Path, tmp_path: Path) -> None:
    other = own(tmp_path / "other", ("x", "y"))
    train, val, _ = find_training_data(forty, val=other)
    assert len(train.samples) == 40
    assert names(val) == ["x", "y"]
    assert val is not None
    assert val.classes == NAMES
    (other / "classes.txt").write_text("sky\nroad\ntree")
    with pytest.raises(DatasetError, match="'tree' where 'car' is expected"):
        find_training_data(forty, val=other)


def test_val_of_another_dataset(forty: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "scenes", seeds=[0], progress=False)
    with pytest.raises(DatasetError, match="which is another dataset than the classes asked for"):
        find_training_data(forty, val=tmp_path / "scenes")


def test_val_of_other_classes_than_an_official_split(tmp_path: Path) -> None:
    home = cityscapes(tmp_path / "streets", split="train")
    with pytest.raises(DatasetError, match="its 0 classes are not the 19 of") as caught:
        find_training_data(home, val=own(tmp_path / "other", ("x",)))
    assert "labeled with the training classes" in caught.value.advice


def test_an_image_in_both_splits(forty: Path, tmp_path: Path) -> None:
    other = own(tmp_path / "other", ("x",))
    (other / "images/y.jpg").symlink_to(forty / "images/003.jpg")
    shutil.copy(other / "masks/x.png", other / "masks/y.png")
    with pytest.raises(DatasetError, match=r"(?s)1 of the training images.*y\.jpg"):
        find_training_data(forty, val=other)
    with pytest.raises(DatasetError, match="40 of the training images"):
        find_training_data(forty, val=forty)


def test_official_splits(tmp_path: Path) -> None:
    for split, name in (("train", "ulm/ulm_0_1"), ("val", "bonn/bonn_0_2")):
        cityscapes(tmp_path / "c", (name,), split)
    for split, name in (("training", "t"), ("validation", "v")):
        ade20k(tmp_path / "a", (name,), split)
    for home, write in ((tmp_path / "v", voc12), (tmp_path / "p", pascal_context)):
        write(home, ("t",), "train")
        write(home, ("v",), "val")
    assert names_of_splits(tmp_path / "c") == (["ulm/ulm_0_1"], ["bonn/bonn_0_2"])
    assert [names_of_splits(tmp_path / key) for key in "avp"] == [(["t"], ["v"])] * 3
    assert find_training_data(tmp_path / "c")[2] == CITYSCAPES.classes
    assert find_training_data(tmp_path / "a")[2] == ADE20K.classes
    assert [len(find_training_data(tmp_path / key)[2]) for key in "vp"] == [21, 60]


def test_official_data_without_val(tmp_path: Path) -> None:
    cityscapes(tmp_path, ("ulm/ulm_0_1", "ulm/ulm_0_2"), "train")
    with pytest.raises(DatasetError, match="with the splits train"):
        find_training_data(tmp_path)
    train, val = names_of_splits(tmp_path, val=0.5)
    assert len(train) == len(val) == 1


def test_names_of_the_classes(tmp_path: Path) -> None:
    home = own(tmp_path, FORTY)
    assert find_training_data(home, classes=list(NAMES))[2] == NAMES
    with pytest.raises(DatasetError, match=r"classes\.txt"):
        find_training_data(home)
    (home / "classes.txt").write_text("one")
    with pytest.raises(DatasetError, match="class names: one"):
        find_training_data(home)
    with pytest.raises(DatasetError, match="name 1 is 'one' where 'sky' is expected"):
        find_training_data(home, classes=NAMES)


@pytest.mark.parametrize("classes", [("a",), "abc", ("a", "a"), ("a", " "), (), [f"{i}" for i in range(256)]])
def test_invalid_classes(forty: Path, classes: Any) -> None:
    with pytest.raises(ConfigError, match="2 to 255 different names"):
        find_training_data(forty, classes=classes)


@pytest.mark.parametrize("val", [1, 1.5, -0.1, float("nan"), True])
def test_invalid_fractions(forty: Path, val: Any) -> None:
    with pytest.raises(ConfigError, match="from 0"):
        find_training_data(forty, val=val)


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        find_training_data(tmp_path / "absent")
    with pytest.raises(DatasetError, match="images/ and masks/"):
        find_training_data(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / "empty" / kind).mkdir(parents=True)
    with pytest.raises(DatasetError, match="no image with a mask"):
        find_training_data(tmp_path / "empty", classes=NAMES)
    one = own(tmp_path / "one", ("a",), NAMES)
    with pytest.raises(DatasetError, match="cannot be held out"):
        find_training_data(one)
    assert names_of_splits(one, val=0) == (["a"], [])


def test_no_image_is_opened(forty: Path) -> None:
    for path in (*(forty / "images").iterdir(), *(forty / "masks").iterdir()):
        path.write_bytes(b"")
    assert len(names_of_splits(forty)[0]) == 40 - len(HELD)
