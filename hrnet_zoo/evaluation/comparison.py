"""A network beside its fast forms on this machine: `hrnet-zoo benchmark NAME --against`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from hrnet_zoo.engines import heap, onednn
from hrnet_zoo.engines.optimize import OptimizedModel, optimize
from hrnet_zoo.errors import ConfigError, raise_on_oom
from hrnet_zoo.evaluation.benchmark import ABOUT, input_size, noise, usable_size
from hrnet_zoo.evaluation.costs import Cost, Machine, machine_of, measure
from hrnet_zoo.images.read import normalize
from hrnet_zoo.inference.predict import evaluating
from hrnet_zoo.models.fcn import FCNHRNet
from hrnet_zoo.models.predictor import Predictor

COMPARISON_ABOUT = {
    "network": "normalized tensor on the device, batch 1 -> scores at a quarter of its size",
    "prediction": "image in memory -> mask: resize, network, best class. None: not measured",
    "peak_memory": ABOUT["peak_memory"],
    "times": "all took turns in one run: compare the ratios, and not the times with another day's",
}


@dataclass(frozen=True)
class Contender:
    """What one form of the network took.

    Attributes:
        name: "exact", the engine of `optimize`, or "torch.compile".
        dtype: of the arithmetic.
        network: normalized tensor to scores at a quarter of its size.
        prediction: image in memory to mask; None: not measured.

    """

    name: str
    dtype: str
    network: Cost
    prediction: Cost | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        model: catalog name, or the network's own where there is no row.
        random_weights: the weights come from no file; speed and memory do not depend on it.
        machine: where, and the exact network's dtype.
        height: of the image, in pixels.
        width: of the image, in pixels.
        contenders: the exact network first.
        skipped: what was not measured, and why.

    """

    model: str
    random_weights: bool
    machine: Machine
    height: int
    width: int
    contenders: tuple[Contender, ...]
    skipped: dict[str, str]

    def ratios(self, contender: Contender) -> tuple[float, float | None]:
        """Return how many times as fast as the exact network it is, by the medians: network, prediction."""
        exact = self.contenders[0]
        network = exact.network.median / contender.network.median
        if exact.prediction is None or contender.prediction is None:
            return network, None
        return network, exact.prediction.median / contender.prediction.median

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; "about" says what each figure is."""
        facts = asdict(self)
        for each, contender in zip(facts["contenders"], self.contenders, strict=True):
            each["network_times_as_fast"], each["prediction_times_as_fast"] = self.ratios(contender)
        return {**facts, "about": COMPARISON_ABOUT}


def compare(
    model: FCNHRNet,
    *,
    size: tuple[int, int] | None = None,
    compiled: bool = False,
    seconds: float = 3.0,
    progress: bool = True,
) -> Comparison:
    """Measure a network and its fast forms in turns, with noise for an image.

    Args:
        model: the network; left as it was.
        size: (height, width) of the image; None: that of the dataset's images in its box.
        compiled: also `torch.compile`, which takes a minute before anything is measured.
        seconds: go on at least so long, and for at least 5 runs of each.
        progress: show a bar on a terminal.

    Raises:
        ConfigError: there are no images of this size, or the device's memory does not suffice.

    """
    height, width = usable_size(size or input_size(model.dataset), 1)
    image = noise(height, width)
    weight = model.decode_head.conv_seg.weight
    skipped: dict[str, str] = {}
    with evaluating(model) as network, raise_on_oom(f"compare {model.name} on {height} x {width} pixels"):
        forms: dict[str, Predictor] = {"exact": network}
        forms |= {f"{each.engine} {_name(each.dtype)}": each for each in _fast(model, skipped)}
        x = normalize(image).to(weight.device, memory_format=torch.channels_last)
        runs: dict[str, Callable[[], object]] = {}
        for name, form in forms.items():
            runs[f"network {name}"] = partial(form.logits_stride4, x.to(form.dtype))
            runs[f"prediction {name}"] = partial(form.predict, image)
        if compiled:
            runs["network torch.compile"] = partial(torch.compile(network.logits_stride4), x.to(model.dtype))
        else:
            skipped["torch.compile"] = "it takes a minute before it runs; --compile includes it"
        for name, run in runs.items():
            if name.endswith((" exact", " torch.compile")):
                runs[name] = heap.default_malloc()(run)
        costs = measure(runs, weight.device, seconds, progress)
    contenders = tuple(
        Contender(
            name.split()[0],
            _name(forms[name].dtype if name in forms else model.dtype),
            costs[f"network {name}"],
            costs.get(f"prediction {name}"),
        )
        for name in [*forms, *(["torch.compile"] if compiled else [])]
    )
    machine = machine_of(weight)
    return Comparison(model.name, not model.provenance, machine, height, width, contenders, skipped)


def _fast(model: FCNHRNet, skipped: dict[str, str]) -> Iterator[OptimizedModel]:
    """Yield the network's fast forms that this machine can do; note which it cannot, and why."""
    on_cpu = model.device.type == "cpu"
    yield optimize(model, dtype=torch.float32)
    if on_cpu and not onednn.has_native_bfloat16():
        skipped["bfloat16"] = "this processor does not multiply in it"
    else:
        yield optimize(model, dtype=torch.bfloat16 if on_cpu else torch.float16)
    for dtype in (torch.float32, torch.bfloat16) if on_cpu else ():
        try:
            yield optimize(model, engine="openvino", dtype=dtype)
        except ConfigError as error:  # it is not installed, or cannot do this dtype
            skipped[f"openvino {_name(dtype)}"] = f"{error.found}; {error.advice}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
