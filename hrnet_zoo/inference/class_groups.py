"""Class names that a caller chooses -> groups of the network's classes."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from hrnet_zoo.datasets.dataset import BLACK, Color, Dataset
from hrnet_zoo.errors import ConfigError

# What predict(classes=) takes: names by group (one name may stand alone), or names that each make a group.
ClassChoice = Mapping[str, str | Sequence[str]] | Sequence[str]

OTHER = "other"
_GRAY: Color = (128, 128, 128)


class ClassGroups(NamedTuple):
    """The classes of a result, each the sum of some classes of the network."""

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    members: tuple[tuple[int, ...], ...]  # indices of the network's classes, ascending; each index is in one group


def group_classes(choice: ClassChoice, dataset: Dataset) -> ClassGroups:
    """Return the chosen groups in their order and, unless they hold every class, "other" at the end.

    A group has the color of its first class; "other" is black, or gray if a chosen class is black.

    Raises:
        ConfigError: nothing is chosen, a group is empty, a name is not a class, a class is named twice, or a group is
            called "other" while classes remain.

    """
    groups = _groups_of_names(choice)
    titles = [title for title, _ in groups]
    named = [name for _, names in groups for name in names]
    empty = next((f"group {title!r} has no class" for title, names in groups if not names), None)
    if not groups or empty:
        _refuse(choice, empty or "no class", "name at least one class, or leave classes out; model.classes lists them")
    for name in named:
        if name not in dataset.classes:
            near = difflib.get_close_matches(str(name), dataset.classes, n=3)
            advice = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            _refuse(choice, f"the network has no class {name!r}", f"{advice}model.classes lists all names")
    twice = [name for name, count in Counter(named).items() if count > 1]
    if twice:
        _refuse(choice, f"class {twice[0]!r} is named more than once", "name each class once, in one group")
    members = [tuple(i for i, each in enumerate(dataset.classes) if each in names) for _, names in groups]
    colors = [dataset.palette[dataset.classes.index(names[0])] for _, names in groups]
    rest = tuple(i for i, each in enumerate(dataset.classes) if each not in named)
    if not rest:
        return ClassGroups(tuple(titles), tuple(colors), tuple(members))
    if OTHER in titles:
        _refuse(
            choice,
            f"a group is called {OTHER!r}, which is the name of the {len(rest)} classes that are not chosen",
            "give the group another name",
        )
    return ClassGroups((*titles, OTHER), (*colors, _GRAY if BLACK in colors else BLACK), (*members, rest))


def _groups_of_names(choice: ClassChoice) -> list[tuple[str, list[str]]]:
    if not isinstance(choice, Mapping):
        return [(name, [name]) for name in _names(choice, choice)]
    for title in choice:
        if not isinstance(title, str) or not title.strip():
            _refuse(choice, f"{title!r} is not the name of a group", "give each group a name")
    return [(title, _names(names, choice)) for title, names in choice.items()]


def _names(names: str | Sequence[str], choice: ClassChoice) -> list[str]:
    if isinstance(names, str):
        return [names]
    if not isinstance(names, Iterable):
        _refuse(choice, f"{names!r} is neither a class name nor a list of them", "model.classes lists all names")
    return list(names)


def _refuse(choice: ClassChoice, found: str, advice: str) -> NoReturn:
    raise ConfigError(
        asked=f"predict with classes={choice!r:.100}", found=found, done="nothing was computed", advice=advice
    )
