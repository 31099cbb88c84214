"""The learning rate: its schedule over the updates, and the factors for backbone and head."""

from __future__ import annotations

from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of an update, the first being 0, before the factors.

    It falls to a hundredth of `lr` by a polynomial of power 0.9, as in mmsegmentation's schedules.
    """
    lowest = config.lr / 100
    rate: float = (config.lr - lowest) * (1 - step / config.steps) ** 0.9 + lowest
    return rate * min(1.0, (step + 1) / (config.warmup + 1))


def parameter_groups(network: FCNHRNet, config: TrainingConfig) -> list[dict[str, object]]:
    """Return the parameters that learn, grouped by their factor on the learning rate."""
    groups = []
    for part, factor in ((network.backbone, config.backbone_lr), (network.decode_head, config.head_lr)):
        if learning := [parameter for parameter in part.parameters() if parameter.requires_grad]:
            groups.append({"params": learning, "factor": factor})
    return groups
