"""Every layout at every level of its folders, and the errors for other folders."""

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hrnet_zoo.datasets import (
    ADE20K,
    CITYSCAPES,
    DATASETS,
    ISAID,
    LOVEDA,
    PASCAL_CONTEXT,
    PASCAL_CONTEXT_59,
    POTSDAM,
    SCENES,
    VAIHINGEN,
    VOC12AUG,
    Dataset,
)
from hrnet_zoo.datasets import layouts as module
from hrnet_zoo.datasets.label_rules import (
    ADE20K_VALUES,
    CITYSCAPES_IDS,
    CITYSCAPES_TRAIN_IDS,
    LabelRule,
    from_one,
    identity,
)
from hrnet_zoo.datasets.layouts import find_samples
from hrnet_zoo.errors import DatasetError
from tests.support.label_folders import (
    ade20k,
    cityscapes,
    image,
    isaid,
    labels,
    loveda,
    mask,
    own,
    pascal_context,
    potsdam,
    vaihingen,
    voc12,
)

NAMES = ["wood", "stone", "glass"]

# Dataset, maker, home as it is unpacked, split on disk, rule, names of the samples.
Case = tuple[Dataset, Callable[[Path], Path], str, str, LabelRule, tuple[str, ...]]
CASES: dict[str, Case] = {
    "cityscapes": (
        CITYSCAPES,
        cityscapes,
        "data/cityscapes",
        "val",
        CITYSCAPES_IDS,
        ("aachen/aachen_0_1", "bonn/bonn_0_2"),
    ),
    "ade20k": (
        ADE20K,
        ade20k,
        "data/ade/ADEChallengeData2016",
        "validation",
        ADE20K_VALUES,
        ("ADE_val_1", "ADE_val_2"),
    ),
    "voc12aug": (
        VOC12AUG,
        voc12,
        "VOCtrainval_11-May-2012/VOCdevkit/VOC2012",
        "val",
        identity(21),
        ("2007_1", "2011_2"),
    ),
    "pascal_context": (
        PASCAL_CONTEXT,
        pascal_context,
        "VOCtrainval_03-May-2010/VOCdevkit/VOC2010",
        "val",
        identity(60),
        ("2008_1", "2010_2"),
    ),
    "loveda": (LOVEDA, loveda, "data/loveDA", "val", from_one(7), ("2522", "2523")),
    "potsdam": (
        POTSDAM,
        potsdam,
        "data/potsdam",
        "val",
        from_one(6),
        ("2_13_0_0_512_512", "2_13_512_0_1024_512"),
    ),
    "vaihingen": (
        VAIHINGEN,
        vaihingen,
        "data/vaihingen",
        "val",
        from_one(6),
        ("area6_0_0_512_512", "area6_512_0_1024_512"),
    ),
    "isaid": (ISAID, isaid, "data/iSAID", "val", identity(16), ("P0003_0_896_0_896", "P0003_0_896_512_1408")),
    "own": (
        CITYSCAPES.with_classes(NAMES),
        own,
        "projects/mine/v1",
        "",
        identity(3),
        ("a", "deep/b"),
    ),
}


@pytest.mark.parametrize("key", CASES)
@pytest.mark.parametrize("told", [True, False])
def test_every_level_of_every_layout(key: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, make, place, split, rule, names = CASES[key]
    home = make(tmp_path / place)
    above = [parent for parent in home.parents if tmp_path in parent.parents]
    assert above
    for root in [home, *above[:3]]:
        folder = find_samples(root, dataset if told else None)
        assert folder.root == home, root
        assert tuple(sample.name for sample in folder.samples) == names
        assert all(sample.image.is_file() and sample.labels.is_file() for sample in folder.samples)
        assert folder.split == split
        assert not folder.problems
        if key != "own":
            assert folder.classes == dataset.classes
            assert folder.title.startswith(dataset.title[:10])
        else:
            assert folder.classes == (tuple(NAMES) if told else None)
        assert folder.rule == (rule if told or key != "own" else identity(255))
    monkeypatch.chdir(home)
    assert find_samples(".", dataset if told else None).samples == folder.samples
    assert pickle.loads(pickle.dumps(folder)) == folder  # noqa: S301 - made on this line


@pytest.mark.parametrize(("key", "split"), [("cityscapes", "train"), ("ade20k", "training"), ("voc12aug", "train")])
def test_the_other_split(key: str, split: str, tmp_path: Path) -> None:
    dataset, make, *_ = CASES[key]
    make(tmp_path)
    make(tmp_path, ["x/x_1"] if key == "cityscapes" else ["x_1"], split)  # type: ignore[call-arg]
    folder = find_samples(tmp_path, dataset, "train")
    assert folder.split == split
    assert [sample.name for sample in folder.samples] == ["x/x_1" if key == "cityscapes" else "x_1"]
    assert len(find_samples(tmp_path, dataset).samples) == 2


def test_splits_of_a_custom_folder(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("val", "b")):
        own(tmp_path / "prefix" / split, [name])
        own(tmp_path / "within", [f"{split}/{name}"])
    for home, name in ((tmp_path / "prefix", "b"), (tmp_path / "within", "b")):
        folder = find_samples(home, None)
        assert ([sample.name for sample in folder.samples], folder.split) == ([name], "val")
        assert find_samples(home, None, "train").samples[0].name == "a"
        with pytest.raises(DatasetError, match="with the splits val, train"):
            find_samples(home, None, "test")
    assert find_samples(tmp_path / "prefix" / "train", None).samples[0].name == "a"  # named, so meant


def test_a_wrong_split(tmp_path: Path) -> None:
    cityscapes(tmp_path / "c", split="train")
    with pytest.raises(DatasetError, match=r"split 'val'[\s\S]*Cityscapes in .*, with the splits train"):
        find_samples(tmp_path / "c", CITYSCAPES)
    cityscapes(tmp_path / "c")
    assert find_samples(tmp_path / "c", CITYSCAPES, "train").split == "train"
    for wrong in ("", "..", "/", "a/b"):
        with pytest.raises(DatasetError, match="is not the name of a split"):
            find_samples(tmp_path / "c", CITYSCAPES, wrong)
    voc12(tmp_path / "VOC2012", split="trainval")
    with pytest.raises(DatasetError, match="with the splits trainval"):
        find_samples(tmp_path, VOC12AUG)
    assert find_samples(tmp_path, VOC12AUG, "trainval").split == "trainval"


def test_kinds_of_cityscapes_labels(tmp_path: Path) -> None:
    names = ["a/a_0_1", "a/a_0_2"]
    cityscapes(tmp_path, names, kind="TrainIds")
    assert find_samples(tmp_path, SCENES).rule == CITYSCAPES_TRAIN_IDS
    cityscapes(tmp_path, names)
    assert find_samples(tmp_path, CITYSCAPES).rule == CITYSCAPES_IDS  # both kinds are there
    (tmp_path / "gtFine/val/a/a_0_1_gtFine_labelIds.png").unlink()
    train_ids = find_samples(tmp_path, CITYSCAPES)  # only these are there for all
    assert (train_ids.rule, len(train_ids.samples), train_ids.problems) == (CITYSCAPES_TRAIN_IDS, 2, ())
    (tmp_path / "gtFine/val/a/a_0_2_gtFine_labelTrainIds.png").unlink()
    mixed = find_samples(tmp_path, CITYSCAPES)
    assert [problem.kind for problem in mixed.problems] == ["image without mask"]
    assert mixed.problems[0].files == ("leftImg8bit/val/a/a_0_1_leftImg8bit.png",)
    assert [sample.name for sample in mixed.samples] == ["a/a_0_2"]  # what one rule can read


def test_years_of_pascal_voc(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2010"):
        voc12(tmp_path / year)
    for root in (tmp_path, tmp_path / "VOC2007"):
        with pytest.raises(DatasetError, match=r"JPEGImages/ and SegmentationClass/ \(Pascal VOC 2012"):
            find_samples(root, VOC12AUG)
    voc12(tmp_path / "VOC2012")
    pascal_context(tmp_path / "VOC2010")
    assert find_samples(tmp_path, VOC12AUG).root.name == "VOC2012"
    assert find_samples(tmp_path, PASCAL_CONTEXT).root.name == "VOC2010"
    assert find_samples(tmp_path / "VOC2010", None).classes == PASCAL_CONTEXT.classes
    with pytest.raises(DatasetError, match=r"several datasets: Pascal Context in .*; Pascal VOC 2012 in "):
        find_samples(tmp_path, None)


def test_listed_files_that_are_not_there(tmp_path: Path) -> None:
    voc12(tmp_path)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("\ufeff2007_1\n\n2011_2\nnone\ngone\n", encoding="utf-8")
    (tmp_path / "SegmentationClass/2011_2.png").unlink()
    folder = find_samples(tmp_path, VOC12AUG)
    assert [(problem.kind, problem.files) for problem in folder.problems] == [
        ("listed file missing", ("none", "gone")),
        ("image without mask", ("JPEGImages/2011_2.jpg",)),
    ]
    (tmp_path / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff")
    with pytest.raises(DatasetError, match=r"val\.txt[\s\S]*not UTF-8"):
        find_samples(tmp_path, VOC12AUG)


def test_several_homes(tmp_path: Path) -> None:
    for name in ("old", "new"):
        cityscapes(tmp_path / name)
    with pytest.raises(DatasetError, match=r"several datasets: Cityscapes in .*new; Cityscapes in .*old") as caught:
        find_samples(tmp_path, CITYSCAPES)
    assert caught.value.path == tmp_path
    own(tmp_path / "new")  # the official layout goes before one's own, beside it or in the same folder
    assert find_samples(tmp_path / "new", CITYSCAPES).title == "Cityscapes"
    with pytest.raises(DatasetError, match="several datasets"):
        find_samples(tmp_path / "new", None)
    own(tmp_path / "more" / "nearer")
    cityscapes(tmp_path / "more" / "a" / "b")
    assert find_samples(tmp_path / "more", CITYSCAPES).title == "Cityscapes"
    assert find_samples(tmp_path / "more", CITYSCAPES.with_classes(NAMES)).root.name == "nearer"
    own(tmp_path / "twice")
    own(tmp_path / "twice" / "val")
    with pytest.raises(DatasetError, match="more than once"):
        find_samples(tmp_path / "twice", None)


def test_the_two_pascal_contexts(tmp_path: Path) -> None:
    """They share their folders; the classes that are asked for decide, and without any it is the one with 60."""
    home = pascal_context(tmp_path / "VOC2010")
    names = PASCAL_CONTEXT_59.classes
    asked = [find_samples(home, PASCAL_CONTEXT_59), find_samples(home, None, classes=names)]
    (home / "classes.txt").write_text("\n".join(names))
    for folder in (*asked, find_samples(home, None)):
        assert (folder.key, folder.title, folder.rule) == ("pascal_context_59", "Pascal Context 59", from_one(59))
        assert folder.classes == names
        assert [sample.name for sample in folder.samples] == ["2008_1", "2010_2"]
    (home / "classes.txt").unlink()
    assert find_samples(home, None).key == "pascal_context"


def test_tiles_of_other_names_are_none_of_the_aerial_datasets(tmp_path: Path) -> None:
    loveda(tmp_path / "mine", ["tile_1", "area6", "1_2"])
    with pytest.raises(DatasetError, match="found: ann_dir/, img_dir/") as caught:
        find_samples(tmp_path / "mine", LOVEDA)
    assert "img_dir/SPLIT/ and ann_dir/SPLIT/ (LoveDA)" in caught.value.advice
    assert "`hrnet-zoo prepare` makes such a folder" in caught.value.advice
    isaid(tmp_path / "low", ["P0003_-396_500_0_896"])  # as the reference names a tile of an image that is too low
    assert [sample.name for sample in find_samples(tmp_path / "low", ISAID).samples] == ["P0003_-396_500_0_896"]


@pytest.mark.parametrize("key", list(CASES)[:-1])
def test_another_dataset(key: str, tmp_path: Path) -> None:
    for other in CASES:
        if other in (key, "own"):
            continue
        home = CASES[other][1](tmp_path / other)
        with pytest.raises(DatasetError, match=r"which is another dataset than the classes asked for") as caught:
            find_samples(home, DATASETS[key])
        assert CASES[other][0].title[:10] in caught.value.found
        assert str(home) in caught.value.found


def test_other_classes_are_not_those_of_the_official_labels(tmp_path: Path) -> None:
    cityscapes(tmp_path / "c")
    few = CITYSCAPES.with_classes(["road", "sky"])
    with pytest.raises(DatasetError, match=r"Cityscapes in .* is another dataset than the classes asked for"):
        find_samples(tmp_path, few)
    own(tmp_path / "mine")
    assert find_samples(tmp_path, few).rule == identity(2)


def test_nothing_recognized_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    for name in ("leftImg8bit", "notes", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "readme.txt").touch()
    with pytest.raises(DatasetError) as caught:
        find_samples(tmp_path, CITYSCAPES)
    assert caught.value.found == ".hidden/, leftImg8bit/, notes/, readme.txt"
    assert "leftImg8bit/SPLIT/ and gtFine/SPLIT/" in caught.value.advice
    assert "images/ and masks/" in caught.value.advice
    assert "ADE20K" not in caught.value.advice
    with pytest.raises(DatasetError, match="annotations/"):
        find_samples(tmp_path, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="found: nothing"):
        find_samples(tmp_path / "empty", None)
    with pytest.raises(DatasetError, match="no such folder"):
        find_samples(tmp_path / "absent", None)
    with pytest.raises(DatasetError, match="no such folder"):
        find_samples("x" * 5000, None)
    with pytest.raises(DatasetError, match="no such folder"):
        find_samples(tmp_path / "readme.txt", None)
    with pytest.raises(DatasetError):
        find_samples(tmp_path / "leftImg8bit", CITYSCAPES)


def test_a_folder_deep_inside_is_not_the_whole(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    with pytest.raises(DatasetError, match=r"found: aachen/, bonn/"):
        find_samples(tmp_path / "leftImg8bit/val", CITYSCAPES)
    (tmp_path / "other").mkdir()
    with pytest.raises(DatasetError):
        find_samples(tmp_path / "other", CITYSCAPES)


def test_detection_data_is_not_ade20k(tmp_path: Path) -> None:
    image(tmp_path / "images/a.jpg")
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DatasetError):
        find_samples(tmp_path, None)


def test_the_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path / "1/2/3/4")
    with pytest.raises(DatasetError):  # four levels above
        find_samples(tmp_path, None)
    assert find_samples(tmp_path / "1", None).root == tmp_path / "1/2/3/4"
    monkeypatch.setattr(module, "_MAX_FOLDERS", 5)
    for index in range(5):
        (tmp_path / "1" / "2" / f"{index}" / "x").mkdir(parents=True)
    with pytest.raises(DatasetError):
        find_samples(tmp_path / "1", None)
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop", target_is_directory=True)
    with pytest.raises(DatasetError):
        find_samples(tmp_path / "loop", None)


def test_a_link_to_the_data(tmp_path: Path) -> None:
    cityscapes(tmp_path / "disk")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cityscapes").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert len(find_samples(tmp_path / "data", CITYSCAPES).samples) == 2
    (tmp_path / "data" / "zz").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert find_samples(tmp_path / "data", CITYSCAPES).root == tmp_path / "data" / "cityscapes"
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / "data" / kind).symlink_to(tmp_path / "disk" / kind, target_is_directory=True)
    assert find_samples(tmp_path / "data", CITYSCAPES).root == tmp_path / "data"


def test_class_lists(tmp_path: Path) -> None:
    own(tmp_path, classes=["wood", " stone ", "", "Glas ä"])
    assert find_samples(tmp_path, None).classes == ("wood", "stone", "Glas ä")
    assert find_samples(tmp_path, CITYSCAPES.with_classes(["wood", "stone", "Glas ä"])).rule == identity(3)
    with pytest.raises(DatasetError, match="name 2 is 'stone' where 'glass' is expected") as caught:
        find_samples(tmp_path, CITYSCAPES.with_classes(["wood", "glass", "stone"]))
    assert caught.value.path == tmp_path / "classes.txt"
    with pytest.raises(DatasetError, match="name 3 is 'Glas ä' where None is expected"):
        find_samples(tmp_path, CITYSCAPES.with_classes(["wood", "stone"]))
    with pytest.raises(DatasetError, match="name 1 is 'wood' where 'road' is expected"):
        find_samples(tmp_path, CITYSCAPES)
    for text, found in (("a\nb\na\n", "'a' appears more than once"), ("\n \n", "no names")):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DatasetError, match=found):
            find_samples(tmp_path, None)
    (tmp_path / "classes.txt").write_bytes("Bäume\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="not UTF-8"):
        find_samples(tmp_path, None)
    (tmp_path / "classes.txt").write_text("\n".join(map(str, range(256))))
    with pytest.raises(DatasetError, match="256 classes"):
        find_samples(tmp_path, None)


@pytest.mark.parametrize("place", ["classes.txt", "val/classes.txt"])
def test_class_lists_of_splits(place: str, tmp_path: Path) -> None:
    for split in ("train", "val"):
        own(tmp_path / split)
    (tmp_path / place).write_text("wood\nstone\n")
    for root in (tmp_path, tmp_path / "val"):
        assert find_samples(root, None).classes == ("wood", "stone")


@pytest.mark.parametrize("key", list(CASES)[:-1])
def test_a_class_list_makes_any_layout_custom(key: str, tmp_path: Path) -> None:
    official, make, _, _, rule, names = CASES[key]
    home = make(tmp_path / "data")
    (home / "classes.txt").write_text("\n".join(NAMES))
    for dataset in (None, CITYSCAPES.with_classes(NAMES)):
        folder = find_samples(home, dataset)
        assert (folder.key, folder.classes, folder.rule) == ("", tuple(NAMES), identity(3))
        assert folder.title == f"custom classes in the layout of {DATASETS[key].title}".replace(" + Aug", "")
        assert tuple(sample.name for sample in folder.samples) == names
    for dataset in (official, next(each for each in DATASETS.values() if each is not official)):
        with pytest.raises(DatasetError, match="name 1 is 'wood' where"):
            find_samples(home, dataset)
    (home / "classes.txt").write_text("\n".join(official.classes))
    folder = find_samples(home, None)
    assert (folder.key, folder.classes, folder.rule) == (key, official.classes, rule)
    other = next(each for each in DATASETS.values() if each is not official)
    with pytest.raises(DatasetError, match=f"where {other.classes[0]!r} is expected"):
        find_samples(home, other)


@pytest.mark.parametrize("key", list(CASES)[:-1])
def test_stated_classes_make_any_layout_custom(key: str, tmp_path: Path) -> None:
    official, make, *_, rule, _ = CASES[key]
    home, few = make(tmp_path / "data"), CITYSCAPES.with_classes(NAMES)
    folder = find_samples(home, None, classes=NAMES)
    assert (folder.key, folder.classes, folder.rule) == ("", tuple(NAMES), identity(3))
    with pytest.raises(DatasetError, match="another dataset") as caught:
        find_samples(home, few)
    assert "list these in classes.txt" in caught.value.advice
    assert find_samples(home, None, classes=official.classes).rule == rule


def test_custom_classes_in_cityscapes_folders_are_read_from_train_ids_or_plain_names(tmp_path: Path) -> None:
    for kind in ("Ids", "TrainIds"):
        cityscapes(tmp_path / "both", kind=kind)
    ends = {sample.labels.stem[-13:] for sample in find_samples(tmp_path / "both", None, classes=NAMES).samples}
    assert ends == {"labelTrainIds"}  # those that mmsegmentation trains on
    image(tmp_path / "plain/leftImg8bit/val/a.png")
    labels(tmp_path / "plain/gtFine/val/a.png", mask(3))
    assert [sample.name for sample in find_samples(tmp_path / "plain", None, classes=NAMES).samples] == ["a"]


@pytest.mark.parametrize("word", ["valid", "validation", "val"])
def test_other_words_for_val(word: str, tmp_path: Path) -> None:
    for split in ("train", word, "test"):
        own(tmp_path / split, [split])
    folder = find_samples(tmp_path, None)
    assert (folder.split, [sample.name for sample in folder.samples]) == (word, [word])
    assert set(folder.splits) == {"train", word, "test"}
    own(tmp_path / ("val" if word != "val" else "valid"))
    with pytest.raises(DatasetError, match="more than once"):
        find_samples(tmp_path, None)


def test_test_stands_for_val_where_there_is_none(tmp_path: Path) -> None:
    for split in ("train", "test"):
        own(tmp_path / split, [split])
    assert find_samples(tmp_path, None).split == "test"
    cityscapes(tmp_path / "c", split="test")  # the official one has no labels
    with pytest.raises(DatasetError, match="with the splits test"):
        find_samples(tmp_path / "c", CITYSCAPES)


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    folder = find_samples(tmp_path, None)
    assert not folder.samples
    assert [problem.kind for problem in folder.problems] == ["empty folder"]
    labels(tmp_path / "masks/a.png", mask(2))
    assert [problem.kind for problem in find_samples(tmp_path, None).problems] == [
        "mask without image",
        "empty folder",
    ]


def test_closed_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path)
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path: str) -> Any:  # permissions do not bind the superuser, as whom tests may run
        if Path(path).name in ("deep", "closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    problems = find_samples(tmp_path, None).problems
    assert [(problem.kind, problem.files) for problem in problems] == [
        ("unreadable folder", ("images/deep",)),
        ("unreadable folder", ("masks/deep",)),
    ]
    monkeypatch.setattr(os, "listdir", scandir)  # with which pathlib lists
    with pytest.raises(DatasetError, match="found: Permission denied"):
        find_samples(tmp_path / "closed", None)


def test_the_golden_folder(shared: Path) -> None:
    folder = find_samples(shared / "golden", SCENES)
    assert [sample.name for sample in folder.samples] == [f"lindau/lindau_00000{i}_000019" for i in range(3)]
    assert folder.rule == CITYSCAPES_IDS


def test_other_years_and_folders_without_lists(tmp_path: Path) -> None:
    """With a class list any year is custom data; without lists of splits, it is no Pascal VOC."""
    home = voc12(tmp_path / "VOC2010")
    (home / "classes.txt").write_text("\n".join(NAMES))
    assert find_samples(home, None).classes == tuple(NAMES)
    shutil.rmtree(home / "ImageSets")
    with pytest.raises(DatasetError, match=r"found: JPEGImages/, SegmentationClass/, classes\.txt"):
        find_samples(home, None)


def test_a_custom_folder_below_one_named_images(tmp_path: Path) -> None:
    own(tmp_path / "images")
    assert [sample.name for sample in find_samples(tmp_path / "images", None).samples] == ["a", "deep/b"]
