"""Updates of a network's weights, one after the other, and all that they need to go on after a stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.amp import GradScaler, autocast
from torch.nn.utils import get_total_norm
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hrnet_zoo.datasets.label_rules import IGNORE_INDEX
from hrnet_zoo.errors import TrainingError, raise_on_oom
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training.losses import Loss
from hrnet_zoo.training.network import parameter_groups, save_memory, share_statistics
from hrnet_zoo.training.recipe import PRECISIONS, Recipe
from hrnet_zoo.training.state import Progress, put, read_state, take, write_state
from hrnet_zoo.training.team import Team

MOMENTUM = 0.9


class Update(NamedTuple):
    """What one update was like.

    Attributes:
        loss: mean over the labeled pixels of the whole batch, before the update.
        lr: learning rate, before the factors.

    """

    loss: float
    lr: float


class Trainer:
    """A network that learns by a recipe.

    Args:
        network: float32 weights; changed in place.
        recipe: how.
        loss: what is to become small.
        team: the processes that share each batch.

    Attributes:
        progress: where it stands.

    """

    def __init__(self, network: FCNHRNet, recipe: Recipe, loss: Loss, team: Team) -> None:
        self.network, self.recipe, self.loss, self.team = network, recipe, loss, team
        self.device = next(network.parameters()).device
        self.progress = Progress()
        if recipe.freeze:
            network.freeze_backbone()
        if team.size > 1:
            share_statistics(network)
        # Made before `save_memory`: a copy of the plain network.
        follow = get_ema_multi_avg_fn(recipe.ema)  # type: ignore[no-untyped-call]
        with torch.device("cpu"):  # where its counter is, whatever torch's default device
            self.average = AveragedModel(network, multi_avg_fn=follow, use_buffers=True) if recipe.ema else None
        if recipe.gradient_checkpointing:
            save_memory(network)
        self.optimizer = SGD(
            parameter_groups(network, recipe), lr=recipe.lr, momentum=MOMENTUM, weight_decay=recipe.weight_decay
        )
        self.scaler = GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.module = team.joined(network)

    @property
    def model(self) -> FCNHRNet:
        """The network to be scored and kept: the running average, if there is one."""
        if self.average is None:
            return self.network
        return cast(FCNHRNet, self.average.module)

    def update(self, images: Tensor, labels: Tensor) -> Update:
        """Learn from this process's share of a batch.

        Args:
            images: (N, 3, H, W) float32, normalized RGB.
            labels: (N, H, W) int64 class indices, 255 ignored.

        Raises:
            TrainingError: the loss or a gradient is not finite; the weights are as before.
            ConfigError: the device has too little memory.

        """
        with raise_on_oom(
            f"update {self.progress.step + 1} of {self.recipe.steps} with {len(images)} images on {self.device}",
            done="the training was stopped; what was kept last is as it was",
            advice="a smaller batch or crop; or accumulate, gradient_checkpointing, precision='bf16'",
        ):
            return self._update(images, labels)

    def _update(self, images: Tensor, labels: Tensor) -> Update:
        rate = self.recipe.lr_at(self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        valid = self.team.sum((labels != IGNORE_INDEX).sum().to(self.device, torch.float64))
        parts = list(zip(images.chunk(self.recipe.accumulate), labels.chunk(self.recipe.accumulate), strict=True))
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, (x, truth) in enumerate(parts, start=1):
            if number < len(parts):
                with self.team.alone():
                    total += self._backward(x, truth, valid)
            else:
                total += self._backward(x, truth, valid)
        loss = float(self.team.sum(total))
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        # In float16 infinite gradients are the scaler's business: it leaves the update out and scales less.
        norm = 0.0 if self.scaler.is_enabled() else float(get_total_norm(gradients))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingError(
                asked=f"update {self.progress.step + 1} of {self.recipe.steps} at a learning rate of {rate:.3g}",
                found=f"a loss of {loss} with gradients of norm {norm}",
                done="the training was stopped; what was kept last is as it was",
                advice="resume is of no use here: begin anew with a smaller lr, a warmup, or precision='fp32'",
                step=self.progress.step,
                lr=rate,
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.progress.step += 1
        return Update(loss, rate)

    def _backward(self, images: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Add a part's gradients; return its share of the batch's loss.

        A part weighs as much as it has labeled pixels of those of the whole batch: then the cross-entropy does not
        depend on how the batch was cut, among parts or among processes. The other losses are no sums over pixels.
        """
        images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        labels = labels.to(self.device, non_blocking=True)
        share = (labels != IGNORE_INDEX).sum() / valid.clamp(min=1)
        dtype = PRECISIONS[self.recipe.precision]
        with autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            scores = [self.module(images)]
        loss = self.loss(scores.pop(), labels) * share  # nobody else keeps the scores, which are the largest of all
        # Gradients become the mean over the processes: here, the sum is wanted.
        self.scaler.scale(loss * self.team.size).backward()  # type: ignore[no-untyped-call]
        return loss.detach().double()

    def save(self, path: Path) -> None:
        """Write where the training stands.

        Raises:
            OutputError: it cannot be written; what was there is as it was.

        """
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            if state["momentum_buffer"] is not None:
                tensors[f"momentum.{index}"] = state["momentum_buffer"]
        if self.average is not None:
            tensors |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        self.progress.scaler = self.scaler.state_dict()
        write_state(path, self.recipe, self.progress, tensors)

    def resume(self, path: Path) -> None:
        """Go on where a training of the same recipe stood.

        Raises:
            ResumeError: the file is damaged, or of another training.

        """
        self.progress, tensors = read_state(path, self.recipe)
        put(self.network.state_dict(), take(tensors, "network."), path)
        if self.average is not None:
            put(self.average.state_dict(), take(tensors, "average."), path)
        learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        momentum = {str(index): torch.zeros_like(parameter) for index, parameter in enumerate(learning)}
        if self.progress.step:
            put(momentum, take(tensors, "momentum."), path)
            state = self.optimizer.state_dict()
            state["state"] = {int(index): {"momentum_buffer": tensor} for index, tensor in momentum.items()}
            self.optimizer.load_state_dict(state)
        if self.progress.scaler:
            self.scaler.load_state_dict(self.progress.scaler)
