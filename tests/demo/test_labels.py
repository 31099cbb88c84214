"""The class ids of the scenes."""

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.demo import labels

OTHERWISE = {"light": "traffic light", "sign": "traffic sign", "plant": "vegetation"}


def test_ids_are_those_of_the_cityscapes_classes() -> None:
    """Every constant has the place of its class, and every class a constant."""
    ids = {name.lower(): value for name, value in vars(labels).items() if name.isupper() and name != "UNLABELED"}
    assert {OTHERWISE.get(name, name): place for name, place in ids.items()} == {
        name: place for place, name in enumerate(CITYSCAPES.classes)
    }
    assert labels.UNLABELED not in ids.values()
