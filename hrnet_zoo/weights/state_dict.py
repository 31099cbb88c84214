"""What a checkpoint describes -> which of its entries are the network's, under which names.

Training scripts wrap weights in many ways. A wrapper is taken off where that is exact: all that lies under one prefix
is the network. What lies elsewhere is left out, and one line says what.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hrnet_zoo.weights.opcodes import Array, Foreign, Refusal, show

CLASSIFIER = "decode_head.conv_seg"  # the layer whose rows are the classes
COUNTER = ".num_batches_tracked"  # of batch norm: the only entries that are whole numbers; the network needs none

_ANCHOR = f"{CLASSIFIER}.weight"
_MAX_TENSORS = 20_000
_MAX_PREFIXES = 10  # more of them are no checkpoint's
_INNER = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Of two networks in one file the averaged one is the copy. (What mmengine and mmcv keep under the plain names is the
# average already: they exchange the two when they save.)
_AVERAGED = re.compile(r"ema|averag|teacher|swa", re.IGNORECASE)
# What training leaves beside the network: mmsegmentation's second head, thop's counts, and the average's length
_LEFT_OUT = re.compile(r"auxiliary_head\..*|(?:.*\.)?total_(?:ops|params)|n_averaged|steps")


class Names(NamedTuple):
    """Which entries of a file are the network's.

    Attributes:
        entries: name in the file by the network's name; None for a counter of batch norm that the file does not have.
        notes: what was taken off, left out or added, in words.

    """

    entries: dict[str, str | None]
    notes: list[str]


def find_state(content: object) -> tuple[Mapping[str, Array], list[str]]:
    """Find the state dict in what a checkpoint describes: at its top, or under a key there.

    Returns:
        The tensors by name, and what was left in words.

    Raises:
        Refusal: there is none, or something else than tensors in it.

    """
    _require_made(content)
    if not isinstance(content, dict):
        raise Refusal("no state dict, neither at the top nor under a key")
    tables = {id(each): (key, each) for key, each in content.items() if isinstance(key, str) and isinstance(each, dict)}
    found = {key: each for key, each in (("", content), *tables.values()) if _holds_tensors(each)}
    networks = [key for key, table in found.items() if any(f"{name}".endswith(_ANCHOR) for name in table)]
    keys = sorted(networks or found, key=lambda key: (key != "state_dict", _AVERAGED.search(key) is not None))
    if not keys:
        for key, value in content.items():
            if key == "state_dict" or (isinstance(value, Foreign) and value.is_module):
                _require_made(value)
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
    return state, [f"{taken} was taken, not {', '.join(others)} (to take another, save it alone)"] if others else []


def unwrap(names: Iterable[str]) -> Names:
    """Find the network's names in those of a file, which wrappers made longer."""
    names = list(names)
    plain = {_INNER.sub("", name): name for name in names}
    if len(plain) < len(names):  # two would become one
        plain = dict(zip(names, names, strict=True))
    prefixes = {name.removesuffix(_ANCHOR) for name in plain if name == _ANCHOR or name.endswith(f".{_ANCHOR}")}
    if not 0 < len(prefixes) <= _MAX_PREFIXES:
        prefix = "module." if plain and all(name.startswith("module.") for name in plain) else ""
        return Names({name.removeprefix(prefix): original for name, original in plain.items()}, [])
    prefix, *others = sorted(prefixes, key=lambda each: (_AVERAGED.search(each) is not None, len(each), each))
    entries, left = dict[str, str | None](), list[str]()
    averages = {f"ema_{name.replace('.', '_')}" for name in plain}  # as mmcv's EMAHook calls its copies
    for name, original in plain.items():
        short = name.removeprefix(prefix)
        elsewhere = not name.startswith(prefix) or name.startswith(tuple(others))
        if elsewhere or _LEFT_OUT.fullmatch(short) or short in averages:
            left.append(original)
        else:
            entries[short] = original
    inner = next(filter(None, map(_INNER.search, names)), None)
    off = [each for each in (prefix, inner and inner[0]) if each]
    notes = [f"{' and '.join(map(show, off))} {'were' if off[1:] else 'was'} taken off the names"] if off else []
    if left:
        notes.append(f"left out: {', '.join(map(show, left[:3]))}{f' and {len(left) - 3} more' if left[3:] else ''}")
    norms = [name.removesuffix(".running_mean") for name in entries if name.endswith(".running_mean")]
    if norms and not any(name.endswith(COUNTER) for name in entries):
        entries |= dict.fromkeys((f"{norm}{COUNTER}" for norm in norms), None)
        notes.append(f"it has no *{COUNTER}, which no prediction needs: 0 was put in")
    return Names(entries, notes)


def _holds_tensors(table: Mapping[object, object]) -> bool:
    return any(isinstance(each, Array) for each in table.values())


def _require_made(value: object) -> None:
    """Raise Refusal for an object in a state dict's place."""
    if isinstance(value, Foreign) and value.is_module:
        raise Refusal(f"a whole model object ({show(value.name)}), not its weights: save model.state_dict()")
    if isinstance(value, Foreign):
        raise Refusal(f"an object made by {show(value.name)} in the place of weights", unsafe=True)
