"""State dicts: found in a checkpoint, unwrapped to the network's names, fitted to its shapes; exactly or not at all.

Training scripts wrap weights in many ways. A wrapper is taken off where that is exact: all that lies under one prefix
is the network. The rest is left out, and a note says what.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from hrnet_zoo.errors import StateDictMismatchError
from hrnet_zoo.models.forks import refuse_after_fork
from hrnet_zoo.models.hrnet import SPECS
from hrnet_zoo.weights.scan import Array, Foreign, Refusal, show

CLASSIFIER = "decode_head.conv_seg"  # the layer whose rows are the classes

_COUNTER = ".num_batches_tracked"  # of batch norm: the only entries that are whole numbers; the network needs none
_ANCHOR = f"{CLASSIFIER}.weight"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_TENSORS = 20_000
_MAX_PREFIXES = 10  # no checkpoint has more
_INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of two networks in one file the averaged one is the copy. (What mmengine and mmcv keep under the plain names is the
# average already: they exchange the two when they save.)
_AVERAGED = re.compile(r"ema|averag|teacher|swa", re.IGNORECASE)
# What training leaves beside the network: mmsegmentation's second head, thop's counts, and the average's length
_LEFT_OUT = re.compile(r"auxiliary_head\..*|(?:.*\.)?total_(?:ops|params)|n_averaged|steps")


def find_state(content: object) -> tuple[Mapping[str, Array], str]:
    """Find the state dict in what a checkpoint describes: at its top, or under a key there.

    Returns:
        The tensors by name, and a note if there was a choice.

    Raises:
        Refusal: there is none, or it holds something else than tensors.

    """
    _refuse_object(content)
    if not isinstance(content, dict):
        raise Refusal("no state dict, neither at the top nor under a key")
    tables = {id(each): (key, each) for key, each in content.items() if isinstance(key, str) and isinstance(each, dict)}
    found = {
        key: each
        for key, each in (("", content), *tables.values())
        if any(isinstance(value, Array) for value in each.values())
    }
    networks = [key for key, table in found.items() if any(f"{name}".endswith(_ANCHOR) for name in table)]
    keys = sorted(networks or found, key=lambda key: (key != "state_dict", _AVERAGED.search(key) is not None))
    if not keys:
        for key, value in content.items():
            if key == "state_dict" or (isinstance(value, Foreign) and value.is_module):
                _refuse_object(value)
        few = ", ".join(show(key) for key in list(content)[:5] if isinstance(key, str))
        raise Refusal(f"no state dict, neither at the top nor under a key{f' (the keys: {few})' if few else ''}")
    state = found[keys[0]]
    if len(state) > _MAX_TENSORS:
        raise Refusal(f"{len(state)} tensors; the limit is {_MAX_TENSORS}")
    for name, value in state.items():
        if not isinstance(name, str):
            raise Refusal("a state dict with an entry whose name is no text")
        if not isinstance(value, Array):
            kind = value.name if isinstance(value, Foreign) else type(value).__name__
            raise Refusal(f"a state dict with {show(name)} of type {show(kind)}", unsafe=isinstance(value, Foreign))
        if not value.is_within:
            raise Refusal(f"the tensor {show(name)}, which does not lie within its storage", unsafe=True)
    taken, *others = (show(key) if key else "what lies at the top" for key in keys[:4])
    return state, f"{taken} was taken, not {', '.join(others)} (to take another, save it alone)" if others else ""


def _refuse_object(value: object) -> None:
    if isinstance(value, Foreign) and value.is_module:
        raise Refusal(f"a whole model object ({show(value.name)}), not its weights: save model.state_dict()")
    if isinstance(value, Foreign):
        raise Refusal(f"an object made by {show(value.name)} in the place of weights", unsafe=True)


def unwrap(names: Iterable[str], tensor: Callable[[str], Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return a state dict under the network's names, and a note on what was taken off, left out or added.

    Args:
        names: those in the file, which wrappers may have made longer.
        tensor: returns the tensor of such a name.

    """
    names = list(names)
    plain = {_INNER.sub("", name): name for name in names}
    if len(plain) < len(names):  # two would become one
        plain = dict(zip(names, names, strict=True))
    prefixes = {name.removesuffix(_ANCHOR) for name in plain if name == _ANCHOR or name.endswith(f".{_ANCHOR}")}
    if not 0 < len(prefixes) <= _MAX_PREFIXES:
        prefix = "module." if plain and all(name.startswith("module.") for name in plain) else ""
        return {name.removeprefix(prefix): tensor(original) for name, original in plain.items()}, ""
    prefix, *others = sorted(prefixes, key=lambda each: (_AVERAGED.search(each) is not None, len(each), each))
    state, left = dict[str, Tensor](), list[str]()
    averages = {f"ema_{name.replace('.', '_')}" for name in plain}  # as mmcv's EMAHook calls its copies
    for name, original in plain.items():
        short = name.removeprefix(prefix)
        elsewhere = not name.startswith(prefix) or name.startswith(tuple(others))
        if elsewhere or _LEFT_OUT.fullmatch(short) or short in averages:
            left.append(original)
        else:
            state[short] = tensor(original)
    inner = next(filter(None, map(_INNER.search, names)), None)
    off = [each for each in (prefix, inner and inner[0]) if each]
    notes = [f"{' and '.join(map(show, off))} {'were' if off[1:] else 'was'} taken off the names"] if off else []
    if left:
        notes.append(f"left out: {', '.join(map(show, left[:3]))}{f' and {len(left) - 3} more' if left[3:] else ''}")
    norms = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    if norms and not any(name.endswith(_COUNTER) for name in state):
        state |= {f"{norm}{_COUNTER}": torch.tensor(0) for norm in norms}
        notes.append(f"it has no *{_COUNTER}, which no prediction needs: 0 was put in")
    return state, "; ".join(notes)


def class_count(state: Mapping[str, Tensor], source: str) -> int:
    """Count the classes of a state dict: the rows of its classifier.

    Raises:
        StateDictMismatchError: it has no classifier of an FCN head.

    """
    if _ANCHOR not in state:
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        cause, advice = _diagnose(shapes, {})
        names = f"the file's names: {', '.join(map(show, list(state)[:5]))}{', ...' if len(state) > 5 else ''}"
        raise _mismatch(
            source, {_ANCHOR: "(classes, channels, 1, 1)"}, cause="; ".join(filter(None, (cause, names))), advice=advice
        )
    if state[_ANCHOR].ndim != 4 or not state[_ANCHOR].numel():
        found = f"{tuple(state[_ANCHOR].shape)}, expected (classes, channels, 1, 1)"
        raise _mismatch(source, different={_ANCHOR: found})
    return state[_ANCHOR].shape[0]


def fit_state(
    state: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    source: str,
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Return a state dict in the order of `expected`, contiguous, sharing no memory, in float32; or say what differs.

    Floating entries must be of `dtype` if it is given, else of float16, bfloat16, float32 or float64.
    `*.num_batches_tracked` are int64. Every value must be finite, in float32 too.

    Raises:
        StateDictMismatchError: names, shapes, dtypes or values do not fit.

    """
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise _mismatch(source, different={name: "sparse, quantized or without data, expected plain values"})
    compare({name: (t.dtype, tuple(t.shape)) for name, t in state.items()}, expected, source, dtype)
    refuse_after_fork(torch.device("cpu"))
    fitted, owners, infinite = dict[str, Tensor](), set[int](), dict[str, str]()
    for name in expected:
        tensor = state[name].detach()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
            # Far faster than isfinite of every value, which writes a mask; NaN passes through aminmax
            if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
                infinite[name] = "has values that are infinite or not a number"
        tensor = tensor.contiguous()
        memory = tensor.untyped_storage().data_ptr()
        fitted[name] = tensor.clone() if memory in owners else tensor
        owners.add(memory)
    if infinite:
        advice = "its training diverged, or it is damaged: give an earlier checkpoint, or fetch the file again"
        raise _mismatch(source, different=infinite, advice=advice)
    return fitted


def compare(
    found: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    expected: Mapping[str, torch.Size],
    source: str,
    dtype: torch.dtype | None,
) -> None:
    """Compare names, shapes and dtypes of a state dict's entries; `dtype` is that of `fit_state`.

    Raises:
        StateDictMismatchError: they do not fit.

    """
    missing = {name: str(tuple(shape)) for name, shape in expected.items() if name not in found}
    unexpected = {name: str(shape) for name, (_, shape) in found.items() if name not in expected}
    different = dict[str, str]()
    floats = _FLOATS if dtype is None else (dtype,)
    for name, shape in expected.items():
        if name not in found:
            continue
        found_dtype, found_shape = found[name]
        allowed = (torch.int64,) if name.endswith(_COUNTER) else floats
        if found_shape != tuple(shape):
            different[name] = f"{found_shape}, expected {tuple(shape)}"
        elif found_dtype not in allowed:
            different[name] = f"{found_dtype}, expected {' or '.join(map(str, allowed))}"
    if missing or unexpected or different:
        cause, advice = _diagnose({name: shape for name, (_, shape) in found.items()}, expected)
        if not missing and not unexpected and different.keys() <= {_ANCHOR, f"{CLASSIFIER}.bias"}:
            advice = "its head has another number of classes: say which with classes=..., or choose the name that fits"
        raise _mismatch(source, missing, unexpected, different, cause=cause, advice=advice)


def _mismatch(
    source: str,
    missing: Mapping[str, str] | None = None,
    unexpected: Mapping[str, str] | None = None,
    different: Mapping[str, str] | None = None,
    *,
    cause: str = "",
    advice: str = "",
) -> StateDictMismatchError:
    """Return the error; its message lists five names of each kind, its attributes all of them."""
    groups = {"missing": missing or {}, "unexpected": unexpected or {}, "different": different or {}}
    found = [cause] if cause else []
    for title, group in groups.items():
        if group:
            few = ", ".join(f"{ascii(name)[1:-1]:.80} {note}" for name, note in list(group.items())[:5])
            found.append(f"{len(group)} {title}: {few}{', ...' if len(group) > 5 else ''}")
    return StateDictMismatchError(
        asked=f"fit the checkpoint {source} into the network",
        found="; ".join(found),
        done="nothing was loaded",
        advice=advice or "choose the name of the network that the checkpoint was trained with (see hrnet-zoo list)",
        source=source,
        missing=tuple(groups["missing"]),
        unexpected=tuple(groups["unexpected"]),
        different=tuple(f"{name}: {note}" for name, note in groups["different"].items()),
    )


def _diagnose(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, torch.Size]) -> tuple[str, str]:
    """Say what a file holds in place of the network, and what to do; empty if its names do not tell."""
    heads = [name for name in shapes if "decode_head." in name]
    size, asked = _arch(shapes), _arch(expected)
    if not heads and any(".branches." in name for name in shapes):
        return "a backbone alone, without a decode_head", "give the checkpoint of a whole network, backbone and head"
    if any(re.search(r"decode_head\.\d+\.", name) for name in heads):
        return "a cascade of heads (OCRNet?), where networks here have one FCN head", "give the checkpoint of an FCN"
    if size and asked and size != asked:
        known = f"choose a name with {size}" if size in SPECS else f"networks here are {', '.join(SPECS)}"
        return f"a network of size {size}, where {asked} was asked for", f"{known} (see hrnet-zoo list)"
    return "", ""


def _arch(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name an HRNet by its width, and "s" for few blocks, as the catalog does; empty if it is none."""
    block = "backbone.stage2.0.branches.0.{}.conv1.weight"
    width = shapes.get(block.format(0), ())
    return f"hr{width[0]}{'' if block.format(3) in shapes else 's'}" if width else ""
