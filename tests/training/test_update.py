"""Updates of the weights."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hrnet_zoo.datasets import CITYSCAPES
from hrnet_zoo.errors import ConfigError, ResumeError, TrainingError
from hrnet_zoo.evaluation.ranks import Ranks
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.training import update as update_module
from hrnet_zoo.training.config import TrainingConfig
from hrnet_zoo.training.losses import cross_entropy
from hrnet_zoo.training.resume import Progress, write_state
from hrnet_zoo.training.schedule import learning_rate
from hrnet_zoo.training.update import Updater, checkpoint_activations
from hrnet_zoo.zoo.create import create_model, initialize
from tests.training.test_config import CONFIG

ALONE = Ranks(0, 1, torch.device("cpu"))


def make(**changes: Any) -> Updater:
    config = dataclasses.replace(CONFIG, head_lr=1.0, batch=4, **changes)
    return Updater(create_model("demo"), config, cross_entropy, ALONE)


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 19, (4, 8, 8), generator=chance).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[0, :20] = 255
    return torch.randn(4, 3, 64, 64, generator=chance), labels


def test_updates_are_those_of_a_plain_loop() -> None:
    """SGD with momentum 0.9 and weight decay, gradients of the mean over labeled pixels, nothing else."""
    updater, network = make(), create_model("demo").train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9, weight_decay=5e-4)
    for step in range(3):
        images, labels = batch(step)
        optimizer.param_groups[0]["lr"] = learning_rate(CONFIG, step)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images.contiguous(memory_format=torch.channels_last)), labels, ignore_index=255)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert updater.update(images, labels) == pytest.approx(float(loss.detach()), rel=1e-5)
    for (name, ours), theirs in zip(updater.network.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=name)
    assert updater.progress.step == 3


def test_both_heads_of_ocrnet_learn() -> None:
    """The loss is that of the second head and 0.4 times that of the first; all gradients are those of this sum."""
    torch.manual_seed(0)
    network = FCNHRNet("hr18s", CITYSCAPES, method="OCRNet")
    initialize(network)
    updater = Updater(network, dataclasses.replace(CONFIG, batch=4, steps=1), cross_entropy, ALONE)
    other, (images, labels) = copy.deepcopy(network).train(), batch()
    first, second = (F.cross_entropy(each, labels, ignore_index=255) for each in other.heads_logits(images))
    (0.4 * first + second).backward()  # type: ignore[no-untyped-call]
    assert updater.update(images, labels) == pytest.approx(float((0.4 * first + second).detach()), rel=1e-5)
    for name in ("decode_head.0.conv_seg.bias", "decode_head.1.conv_seg.weight"):
        ours, theirs = (each.get_parameter(name).grad for each in (network, other))
        assert ours is not None
        assert theirs is not None
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


def test_parts_of_a_batch_weigh_by_their_labeled_pixels() -> None:
    """With batch norm in eval mode the gradients are those of the whole batch, however it is cut."""
    gradients = []
    for accumulate in (1, 2, 4):
        updater = make(accumulate=accumulate, freeze="backbone")
        norm = updater.network.decode_head.get_submodule("convs.0.bn")
        norm.register_forward_pre_hook(lambda module, _: module.eval() and None)
        loss = updater.update(*batch())
        gradients.append((loss, [parameter.grad for parameter in updater.network.decode_head.parameters()]))
    for loss, others in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-6)
        for a, b in zip(gradients[0][1], others, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_batch_without_labels_gives_zero_and_no_nan() -> None:
    updater = make()
    images, labels = batch()
    assert updater.update(images, torch.full_like(labels, 255)) == 0.0
    assert all(parameter.isfinite().all() for parameter in updater.network.parameters())


def test_factors_on_the_learning_rate() -> None:
    updater = make()
    updater.config = dataclasses.replace(updater.config, head_lr=1.0)
    updater.optimizer.param_groups[0]["factor"] = 0.0
    before = {name: tensor.clone() for name, tensor in updater.network.named_parameters()}
    updater.update(*batch())
    changed = {
        name.partition(".")[0] for name, t in updater.network.named_parameters() if not torch.equal(t, before[name])
    }
    assert changed == {"decode_head"}


def test_a_frozen_backbone_keeps_every_bit() -> None:
    updater = make(freeze="backbone")
    before = {name: tensor.clone() for name, tensor in updater.network.backbone.state_dict().items()}
    updater.update(*batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in updater.network.backbone.state_dict().items())


def test_the_average_follows_behind() -> None:
    updater = make(ema=0.9)
    start = updater.network.decode_head.conv_seg.weight.detach().clone()
    updater.update(*batch(0))
    first = updater.network.decode_head.conv_seg.weight.detach().clone()
    updater.update(*batch(1))
    second = updater.network.decode_head.conv_seg.weight.detach()
    assert not torch.equal(start, first)
    # The first update is taken as it is, for there was nothing before it.
    torch.testing.assert_close(updater.model.decode_head.conv_seg.weight, 0.9 * first + 0.1 * second)
    assert updater.model is not updater.network


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    updater = make()
    updater.update(*batch())
    before = {name: tensor.clone() for name, tensor in updater.network.named_parameters()}
    updater.loss = lambda logits, labels: cross_entropy(logits, labels) * math.nan
    with pytest.raises(TrainingError, match="update 2 of 100"):
        updater.update(*batch(1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in updater.network.named_parameters())


def test_gradients_that_are_not_finite_stop_before_the_weights_change() -> None:
    """The square root of 0 is finite, and its slope is not."""
    updater = make()
    before = {name: tensor.clone() for name, tensor in updater.network.named_parameters()}
    updater.loss = lambda logits, labels: cross_entropy(logits, labels) + (logits[0, 0, 0, 0] * 0).sqrt()
    with pytest.raises(TrainingError, match=r"norm (nan|inf)"):
        updater.update(*batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in updater.network.named_parameters())


def test_out_of_memory_says_what_helps() -> None:
    updater = make()
    before = {name: tensor.clone() for name, tensor in updater.network.named_parameters()}

    def greedy(logits: Tensor, labels: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    updater.loss = greedy
    with pytest.raises(ConfigError, match=r"(?s)too little memory.*gradient_checkpointing"):
        updater.update(*batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in updater.network.named_parameters())


@pytest.mark.parametrize("spoil", ["momentum.0", "network.decode_head.conv_seg.bias"])
def test_a_state_that_lacks_something_is_refused(tmp_path: Path, spoil: str, monkeypatch: pytest.MonkeyPatch) -> None:
    updater = make()
    updater.update(*batch())
    with monkeypatch.context() as patch:
        written = write_state

        def without(path: Path, config: TrainingConfig, progress: Progress, tensors: dict[str, Tensor]) -> None:
            written(path, config, progress, {name: each for name, each in tensors.items() if name != spoil})

        patch.setattr(update_module, "write_state", without)
        updater.save(tmp_path / "state")
    with pytest.raises(ResumeError):
        make().resume(tmp_path / "state")


@pytest.mark.parametrize(
    "changes",
    [{}, {"ema": 0.99}, {"freeze": "backbone"}, {"gradient_checkpointing": True}, {"accumulate": 2}],
    ids=lambda changes: next(iter(changes), "plain"),
)
def test_going_on_is_bit_exact(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = make(**changes)
    for step in range(2):
        whole.update(*batch(step))
    begun = make(**changes)
    begun.update(*batch(0))
    begun.save(tmp_path / "state")
    resumed = make(**changes)
    resumed.resume(tmp_path / "state")
    resumed.update(*batch(1))
    for a, b in ((whole.network, resumed.network), (whole.model, resumed.model)):
        theirs = b.state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())
    assert resumed.progress == whole.progress


def test_another_class_count_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path / "state")
    config: TrainingConfig = dataclasses.replace(CONFIG, head_lr=1.0, batch=4)
    network: FCNHRNet = create_model("demo", classes=["road", "rest"])
    other = Updater(network, config, cross_entropy, ALONE)
    with pytest.raises(ResumeError, match="conv_seg"):
        other.resume(tmp_path / "state")


def test_bfloat16_is_near(tmp_path: Path) -> None:
    plain, half = make(), make(precision="bf16")
    losses = [(plain.update(*batch(step)), half.update(*batch(step))) for step in range(3)]
    assert all(b == pytest.approx(a, rel=0.02) and a != b for a, b in losses)
    assert all(parameter.dtype == torch.float32 for parameter in half.network.parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(tmp_path: Path, precision: str) -> None:
    config = dataclasses.replace(CONFIG, head_lr=1.0, batch=4, precision=precision)
    device = torch.device("cuda:0")
    network = create_model("demo", device=device, dtype=torch.float32)
    updater = Updater(network, config, cross_entropy, Ranks(0, 1, device))
    reference = make()
    for step in range(3):
        ours, theirs = updater.update(*batch(step)), reference.update(*batch(step))
        assert ours == pytest.approx(theirs, rel=0.05)
    updater.save(tmp_path / "state")
    again = Updater(
        create_model("demo", device=device, dtype=torch.float32), config, cross_entropy, Ranks(0, 1, device)
    )
    again.resume(tmp_path / "state")
    assert again.progress == updater.progress
    assert math.isfinite(again.update(*batch(3)))


def make_network() -> FCNHRNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FCNHRNet("hr18s", CITYSCAPES)
        initialize(network)
        return network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_recomputing_changes_no_bit(images: torch.Tensor) -> None:
    plain, thrifty = make_network(), make_network()
    checkpoint_activations(thrifty)
    for network in (plain, thrifty):
        network.train()(images).square().mean().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), thrifty.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name  # type: ignore[arg-type]
    theirs = thrifty.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in plain.state_dict().items())


def test_recomputing_keeps_less(images: torch.Tensor) -> None:
    def kept(network: FCNHRNet) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            network.train()(images)
        return sum(sizes.values())

    thrifty = make_network()
    checkpoint_activations(thrifty)
    weights = sum(parameter.numel() * 4 for parameter in thrifty.parameters())
    assert kept(thrifty) - weights < 0.75 * (kept(make_network()) - weights)


def test_frozen_batch_norm_in_what_is_recomputed(images: torch.Tensor) -> None:
    network = make_network()
    network.freeze_backbone()
    checkpoint_activations(network)
    mean = network.backbone.get_buffer("stage4.0.branches.0.0.bn1.running_mean")
    before = mean.clone()
    network.train()(images).sum().backward()
    assert torch.equal(mean, before)
