"""Names, colours and boxes of the four data sets."""

import pytest

from hrnet_zoo.datasets import ADE20K, CITYSCAPES, DATASETS, PASCAL_CONTEXT, SCENES, VOC12AUG, voc_colour


@pytest.mark.parametrize(
    ("key", "number"), [("cityscapes", 19), ("ade20k", 150), ("voc12aug", 21), ("pascal_context", 60)]
)
def test_as_many_names_as_colours(key: str, number: int) -> None:
    dataset = DATASETS[key]
    assert len(dataset.classes) == len(set(dataset.classes)) == len(dataset.palette) == number
    assert all(len(colour) == 3 and all(0 <= value <= 255 for value in colour) for colour in dataset.palette)


def test_first_and_last_names_and_colours() -> None:
    assert CITYSCAPES.classes[0] == "road"
    assert CITYSCAPES.palette[0] == (128, 64, 128)
    assert CITYSCAPES.classes[18] == "bicycle"
    assert CITYSCAPES.palette[18] == (119, 11, 32)
    assert ADE20K.classes[0] == "wall"
    assert ADE20K.classes[149] == "flag"
    assert VOC12AUG.classes[15] == "person"


def test_pascal_context_has_the_corrected_alphabetical_order() -> None:
    first, *others = PASCAL_CONTEXT.classes
    assert first == "background"
    assert others == sorted(others)


def test_voc_colours_are_the_published_ones() -> None:
    assert tuple(voc_colour(index) for index in range(21)) == VOC12AUG.palette


def test_boxes_and_windows() -> None:
    assert [dataset.box for dataset in DATASETS.values()] == [(2048, 1024), (2048, 512), (2048, 512), (520, 520)]
    assert [dataset.slides for dataset in DATASETS.values()] == [False, False, False, True]
    assert PASCAL_CONTEXT.window == (480, 320)
    assert SCENES.classes == CITYSCAPES.classes


def test_other_classes_keep_the_colours_of_known_names() -> None:
    other = CITYSCAPES.with_classes(["sky", "solar panel", "road", "roof"])
    assert other.classes == ("sky", "solar panel", "road", "roof")
    assert other.palette[0] == CITYSCAPES.palette[10]
    assert other.palette[2] == CITYSCAPES.palette[0]
    assert len(set(other.palette)) == 4
    assert other.box == CITYSCAPES.box
    assert len(CITYSCAPES.classes) == 19
    assert len(set(CITYSCAPES.with_classes([f"class {i}" for i in range(4096)]).palette)) == 4096


def test_numbers_of_pictures_behind_the_published_figures() -> None:
    numbers = {key: dataset.val_pictures for key, dataset in DATASETS.items()}
    assert numbers == {"cityscapes": 500, "ade20k": 2000, "voc12aug": 1449, "pascal_context": 5105}
    assert SCENES.val_pictures == 50
    assert SCENES.with_classes(SCENES.classes).val_pictures == 0
