"""The Cityscapes train ids that the scenes are labeled with."""

from typing import Final

ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, PLANT, TERRAIN = range(10)
SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE = range(10, 19)

UNLABELED: Final = 255
"""Label of the camera car's own hood, which a third of the scenes show at their lower edge."""
