"""Which steps of a plan may run side by side: the branches of the network are independent between exchanges.

A lane is a CUDA stream. What runs in one lane runs in order; between lanes one waits for an event of the other. Memory
that is given back in a lane is used again by what comes later in that lane, with no regard to the others. Hence a map
is kept until its lane knows that all its readers are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, fx

LANES = 8  # more branches and paths between them than can fill a GPU


@dataclass(frozen=True)
class Turn:
    """One step of a plan in its lane.

    Attributes:
        node: the step.
        lane: where it runs; its result's memory belongs there.
        waits: steps in other lanes that must be done before.
        marked: another lane waits for this one.
        releases: steps whose results are not needed any more when this one has been started.

    """

    node: fx.Node
    lane: int
    waits: tuple[fx.Node, ...]
    marked: bool
    releases: tuple[fx.Node, ...]


class Lanes(Protocol):
    """Streams and events, as `carry_out` needs them."""

    def use(self, lane: int) -> AbstractContextManager[object]:
        """Let what is started run in a lane."""

    def mark(self, lane: int) -> Any:  # noqa: ANN401 - an event
        """Return what tells that all that was started in a lane is done."""

    def wait(self, lane: int, mark: Any) -> None:  # noqa: ANN401
        """Let a lane wait for such a mark."""


class _Clock:
    """What a lane knows of all lanes: how many of their steps are done once its own last one is."""

    def __init__(self, lanes: int) -> None:
        self.known = [0] * lanes
        self.last: fx.Node | None = None
        self.depth = 0


def schedule(graph: fx.Graph, lanes: int = LANES) -> list[Turn]:
    """Give each step of a plan its lane. The input is ready in lane 0.

    A step goes on in the lane of a map that it reads, if nothing else has yet; else in one that it waits for anyhow, or
    in a new one; where there is none left, in that with the shortest chain behind it.
    """
    planning = _Planning(graph, lanes)
    turns = [planning.turn(node) for node in graph.nodes if node.op not in ("placeholder", "output")]
    marked = {node for turn in turns for node in turn.waits}
    return [Turn(each.node, each.lane, each.waits, each.node in marked, each.releases) for each in turns]


def carry_out(plan: fx.GraphModule, turns: Sequence[Turn], x: Tensor, lanes: Lanes) -> Tensor:
    """Start the steps of a plan, each in its lane. Whatever is started in lane 0 afterwards runs after all of them.

    Args:
        plan: with one input and one output.
        turns: of its graph.
        x: the input, ready in lane 0.
        lanes: where to run.

    """
    (source,) = (node for node in plan.graph.nodes if node.op == "placeholder")
    (sink,) = (node for node in plan.graph.nodes if node.op == "output")
    values: dict[fx.Node, Any] = {source: x}
    marks: dict[fx.Node, Any] = {}
    forked: list[int] = []
    beginning = lanes.mark(0)
    try:
        for turn in turns:
            with lanes.use(turn.lane):
                if turn.lane and turn.lane not in forked:
                    lanes.wait(turn.lane, beginning)
                    forked.append(turn.lane)
                for node in turn.waits:
                    lanes.wait(turn.lane, marks[node])
                values[turn.node] = _call(plan, turn.node, values)
                if turn.marked:
                    marks[turn.node] = lanes.mark(turn.lane)
            for node in turn.releases:
                del values[node]
    finally:  # also after an error: a capture whose lanes do not come together cannot even be ended
        for lane in forked:
            lanes.wait(0, lanes.mark(lane))
    result: Tensor = values[sink.args[0]]
    return result


def _call(plan: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any]) -> Any:  # noqa: ANN401 - a map, or several
    args = fx.node.map_arg(node.args, values.__getitem__)
    if node.op == "call_module":
        return plan.get_submodule(str(node.target))(*args)
    if node.op == "call_method":
        first, *rest = args
        return getattr(first, str(node.target))(*rest)
    return node.target(*args)  # type: ignore[operator]  # call_function: the target is the function


class _Planning:
    """Lanes while they are filled."""

    def __init__(self, graph: fx.Graph, lanes: int) -> None:
        self.lanes = [_Clock(lanes)]
        self.most = lanes
        self.place: dict[fx.Node, tuple[int, int]] = {}  # lane, and number in it from 1
        self.knew: dict[fx.Node, list[int]] = {}  # what its lane knew when it was done
        self.depth: dict[fx.Node, int] = {}
        self.root: dict[fx.Node, fx.Node] = {}  # of parts of a map: the map, whose memory they are
        self.readers: dict[fx.Node, list[fx.Node]] = {}  # of a map and its parts
        self.held: list[fx.Node] = []
        for node in graph.nodes:
            views = node.op in ("call_method", "call_function")
            self.root[node] = self.root[node.all_input_nodes[0]] if views else node
            self.readers.setdefault(self.root[node], [])
            for each in node.all_input_nodes:
                self.readers[self.root[each]].append(node)

    def turn(self, node: fx.Node) -> Turn:
        inputs = [each for each in node.all_input_nodes if each.op != "placeholder"]
        number = self._lane(node, inputs)
        lane = self.lanes[number]
        waits = []
        for each in sorted(inputs, key=lambda each: -self.depth[each]):
            other, place = self.place[each]
            if other != number and lane.known[other] < place:
                waits.append(each)
                lane.known = [max(pair) for pair in zip(lane.known, self.knew[each], strict=True)]
        lane.known[number] += 1
        lane.last = node
        self.place[node] = (number, lane.known[number])
        self.knew[node] = list(lane.known)
        self.depth[node] = lane.depth = 1 + max([lane.depth, *(self.depth[each] for each in inputs)])
        self.held.append(node)
        return Turn(node, number, tuple(waits), False, self._releases())

    def _lane(self, node: fx.Node, inputs: list[fx.Node]) -> int:
        if self.root[node] is not node:
            return self.place[inputs[0]][0]  # no work, a part of a map: where that is
        tails = [lane.last for lane in self.lanes]
        for each in sorted(inputs, key=lambda each: -self.depth[each]):
            if each in tails:
                return tails.index(each)
        known = [max([0, *(self.knew[each][lane] for each in inputs)]) for lane in range(self.most)]
        for number, lane in enumerate(self.lanes):
            if lane.known[number] <= known[number]:
                return number
        if len(self.lanes) < self.most:
            self.lanes.append(_Clock(self.most))
            return len(self.lanes) - 1
        return min(range(self.most), key=lambda number: self.lanes[number].depth)

    def _releases(self) -> tuple[fx.Node, ...]:
        """Let go of what nobody reads any more, as far as the lanes of its memory know."""
        gone = tuple(node for node in self.held if self._done_with(self.root[node]))
        self.held = [node for node in self.held if node not in gone]
        return gone

    def _done_with(self, root: fx.Node) -> bool:
        number, _ = self.place[root]
        for reader in self.readers[root]:
            if reader not in self.place:  # also the output: what it reads is never let go
                return False
            other, place = self.place[reader]
            if self.lanes[number].known[other] < place:
                return False
        return True
