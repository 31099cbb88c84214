"""State dicts: found in a checkpoint, unwrapped to the network's names, fitted to its shapes; exactly or not at all.

Training scripts wrap weights in many ways. All that lies under one prefix is the network; the rest is left out, and a
note says what.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hrnet_zoo.errors import StateDictMismatchError
from hrnet_zoo.models.fork_safety import refuse_after_fork
from hrnet_zoo.weights.scan import Array, Foreign, Refusal, show

_COUNTER = ".num_batches_tracked"  # of batch norm: the only entries that are whole numbers; the network needs none
# The layer that makes the result, of the FCN head or of OCRNet's second one: what comes before is a wrapper's prefix.
_ANCHOR = re.compile(r"(?:^|\.)(?=decode_head\.(?:1\.)?conv_seg\.weight$)")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_PREFIXES = 10  # no checkpoint has more
_INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of two networks in one file the averaged one is the copy. (What mmengine and mmcv keep under the plain names is the
# average already: they exchange the two when they save.)
_AVERAGED = re.compile(r"ema|averag|teacher|swa", re.IGNORECASE)
# A backbone is found by this name; what comes before is a prefix.
_BRANCH = "stage2.0.branches.0.0.conv1.weight"
# Heads beside a backbone, and of what
_HEADS = re.compile(
    r"(incre_modules|downsamp_modules|final_layer|classifier"  # HRNet-Image-Classification
    r"|last_layer|aux_head|conv3x3_ocr|ocr_gather_head|ocr_distri_head|cls_head|loss"  # HRNet-Semantic-Segmentation
    r"|decode_head|auxiliary_head)\."  # mmsegmentation
)
# What training leaves beside the network: mmsegmentation's second head, thop's counts, and the average's length
_LEFT_OUT = re.compile(r"auxiliary_head\..*|(?:.*\.)?total_(?:ops|params)|n_averaged|steps")


def find_state(content: object) -> tuple[Mapping[str, Array], str]:
    """Return the state dict in what a checkpoint describes, at its top or under a key, and a note if there was choice.

    Raises:
        Refusal: there is none, or it holds something else than tensors.

    """
    _refuse_object(content)
    top = content if isinstance(content, dict) else {}
    tables = {"": top} | {key: each for key, each in top.items() if isinstance(key, str) and isinstance(each, dict)}
    found = {key: table for key, table in tables.items() if any(isinstance(each, Array) for each in table.values())}
    networks = [key for key, table in found.items() if any(_ANCHOR.search(f"{name}") for name in table)]
    keys = sorted(networks or found, key=lambda key: (key != "state_dict", _AVERAGED.search(key) is not None))
    if not keys:
        for key, value in top.items():
            if key == "state_dict" or (isinstance(value, Foreign) and value.is_module):
                _refuse_object(value)
        few = ", ".join(show(key) for key in list(top)[:5] if isinstance(key, str))
        raise Refusal(f"no state dict, neither at the top nor under a key{f' (the keys: {few})' if few else ''}")
    state = found[keys[0]]
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

    Wrappers may have made `names`, those in the file, longer; `tensor` returns the tensor of such a name.
    """
    names = list(names)
    plain = {_INNER.sub("", name): name for name in names}
    if len(plain) < len(names):  # two would become one
        plain = dict(zip(names, names, strict=True))
    prefixes = {name[: match.end()] for name in plain if (match := _ANCHOR.search(name))}
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
    added = _add_counters(state)
    groups = {"taken off the names": [prefix] * bool(prefix) + ([inner[0]] if inner else [])}
    groups |= {"left out": left, "added, which no prediction needs": added}
    return state, "; ".join(f"{title}: {_few(group)}" for title, group in groups.items() if group)


def unwrap_backbone(names: Iterable[str], tensor: Callable[[str], Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return the backbone in a state dict under its own names, and a note on what was left out or added.

    The names after the prefix are the same in files of mmsegmentation ("backbone."), of its ImageNet classifiers and
    of HRNet's authors (no prefix, or "model." if their training saved it). Left out are the heads of these networks
    and the loss; everything else stays, to be refused. Source: `cls_hrnet.py` in HRNet-Image-Classification,
    `seg_hrnet.py` and `seg_hrnet_ocr.py` in HRNet-Semantic-Segmentation.
    """
    whole, note = unwrap(names, tensor)
    prefixes = [name.removesuffix(_BRANCH) for name in whole if f".{name}".endswith(f".{_BRANCH}")]
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    beside = re.sub(r"(backbone|model)\.$", "", prefix)  # of the heads or the loss
    short = {name: name.removeprefix(prefix if name.startswith(prefix) else beside) for name in whole}
    if len(set(short.values())) < len(short):  # two would become one
        short = {name: name for name in whole}
    state, left = dict[str, Tensor](), set[str]()
    for name, entry in whole.items():
        if head := _HEADS.match(short[name]):
            left.add(head[1])
        elif _LEFT_OUT.fullmatch(short[name]):
            left.add(short[name].rpartition(".")[2])
        else:
            state[short[name]] = entry
    notes = [note, f"left out: {', '.join(sorted(left))}" if left else ""]
    if _add_counters(state):
        notes.append("added: counters of batch norm, which no prediction needs")
    return state, "; ".join(filter(None, notes))


def _add_counters(state: dict[str, Tensor]) -> list[str]:
    """Add batch norm's counters to a state dict that has none, and return their names."""
    norms = [name.removesuffix(".running_mean") for name in state if name.endswith(".running_mean")]
    added = [] if any(name.endswith(_COUNTER) for name in state) else [f"{norm}{_COUNTER}" for norm in norms]
    state |= {name: torch.tensor(0) for name in added}
    return added


def _few(names: list[str]) -> str:
    return f"{', '.join(map(show, names[:3]))}{f' and {len(names) - 3} more' if names[3:] else ''}"


def fit_state(
    state: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: str, *, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Return a state dict in the order of `expected`, contiguous, sharing no memory, in float32; or say what differs.

    Floating entries must be of `dtype` if it is given, else of float16, bfloat16, float32 or float64.
    `*.num_batches_tracked` are int64. Every value must be finite, in float32 too.

    Raises:
        StateDictMismatchError: names, shapes, dtypes or values do not fit.

    """
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise _mismatch(source, different=[f"{name}: sparse, quantized or without data, expected plain values"])
    compare({name: (t.dtype, tuple(t.shape)) for name, t in state.items()}, expected, source, dtype)
    refuse_after_fork(torch.device("cpu"))
    fitted, owners, infinite = dict[str, Tensor](), set[int](), list[str]()
    for name in expected:
        tensor = state[name].detach()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
            # Far faster than isfinite of every value, which writes a mask; NaN passes through aminmax
            if tensor.numel() and not torch.stack(torch.aminmax(tensor)).isfinite().all():
                infinite.append(f"{name}: infinite or not a number (did its training diverge?), expected finite values")
        tensor = tensor.contiguous()
        memory = tensor.untyped_storage().data_ptr()
        fitted[name] = tensor.clone() if memory in owners else tensor
        owners.add(memory)
    if infinite:
        raise _mismatch(source, different=infinite)
    return fitted


def compare(
    found: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    expected: Mapping[str, torch.Size],
    source: str,
    dtype: torch.dtype | None,
) -> None:
    """Raise StateDictMismatchError unless names, shapes and dtypes of the entries fit, as for `fit_state`."""
    different, floats = list[str](), _FLOATS if dtype is None else (dtype,)
    for name, (found_dtype, found_shape) in found.items():
        shape = tuple(expected.get(name, found_shape))
        allowed = (torch.int64,) if name.endswith(_COUNTER) else floats
        if found_shape != shape:
            different.append(f"{name}: {found_shape}, expected {shape}")
        elif found_dtype not in allowed and name in expected:
            different.append(f"{name}: {found_dtype}, expected {' or '.join(map(str, allowed))}")
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if missing or unexpected or different:
        cause, advice = _cause({name: shape for name, (_, shape) in found.items()}, expected)
        raise _mismatch(source, cause, advice, missing=missing, unexpected=unexpected, different=different)


def _mismatch(
    source: str,
    cause: str = "",
    advice: str = "",
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    different: Sequence[str] = (),
) -> StateDictMismatchError:
    """Return the error; its message lists five entries of each kind, its attributes all of them."""
    found = [cause] if cause else []
    for title, group in (("missing", missing), ("unexpected", unexpected), ("different", different)):
        if group:
            few = ", ".join(f"{ascii(entry)[1:-1]:.160}" for entry in group[:5])
            found.append(f"{len(group)} {title}: {few}{', ...' if len(group) > 5 else ''}")
    return StateDictMismatchError(
        asked=f"fit the checkpoint {source} into the network",
        found="; ".join(found),
        done="nothing was loaded",
        advice=advice
        or "give a whole checkpoint, backbone and head, the name of the network that it was trained with (see "
        "hrnet-zoo list), and its classes=...",
        source=source,
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        different=tuple(different),
    )


def _cause(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, torch.Size]) -> tuple[str, str]:
    """Say what a file holds in place of the network, and what to do; empty if its names do not tell."""
    size, asked = _arch(shapes), _arch(expected)
    other_size = f"a network of size {size}, where {asked} was asked for" if size and asked and size != asked else ""
    if not any("decode_head." in name for name in expected):
        known = "files of mmsegmentation and of HRNet's authors are known"
        return other_size, f"give a file with a whole HRNetV2 backbone ({known}), and the name of its size"
    heads = [name for name in shapes if "decode_head." in name]
    if not heads and any(".branches." in name for name in shapes):
        take = f"take its backbone by create_backbone({size!r}, checkpoint=...)"
        beside = {match[1] for name in shapes if (match := re.search(rf"(?:^|\.){_HEADS.pattern}", name))}
        if beside & {"last_layer", "cls_head"}:
            cause = "a segmentation network of HRNet's authors, whose head has other layers (convolutions with a bias)"
            return f"{cause} and which may resize by align_corners=True", f"{take}, and fine-tune it with a new head"
        if "incre_modules" in beside:
            return "an ImageNet classifier", f"create_model({size!r}, pretrained='imagenet', classes=[...]), or {take}"
        return "a backbone alone, without a decode_head", f"give a whole checkpoint, backbone and head; or {take}"
    found, wanted = (any(re.search(r"decode_head\.\d+\.", name) for name in names) for names in (heads, expected))
    if heads and found != wanted:
        kinds = "one FCN head", "a cascade of heads (OCRNet's)"
        different = "fcn_... and ocrnet_... are different networks"
        return f"{kinds[found]}, where {kinds[wanted]} was asked for ({different})", ""
    return other_size, ""


def _arch(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name an HRNet by its width, and "s" for few blocks, as the catalog does; empty if it is none."""
    first = next((name for name in shapes if name.endswith(_BRANCH)), "")
    fourth = first.replace(".0.conv1.weight", ".3.conv1.weight")
    return f"hr{shapes[first][0]}{'' if fourth in shapes else 's'}" if first and shapes[first] else ""
