"""Lanes: who waits for whom, when memory is given back, and that side by side nothing is read too early."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from hrnet_zoo.engines.gpu_plan import regroup
from hrnet_zoo.engines.padding import pad
from hrnet_zoo.engines.streams import LANES, Turn, carry_out, schedule
from tests.plans import noise, plan_of, relative


@pytest.fixture(scope="module")
def plan() -> fx.GraphModule:
    return pad(regroup(plan_of()))


def before(turns: list[Turn]) -> dict[fx.Node, set[fx.Node]]:
    """Return for each step all that is surely done when it starts, by the order in lanes and the waiting alone."""
    done: dict[fx.Node, set[fx.Node]] = {}
    tails: dict[int, fx.Node] = {}
    for turn in turns:
        direct = [*turn.waits, *([tails[turn.lane]] if turn.lane in tails else [])]
        done[turn.node] = set(direct).union(*(done[each] for each in direct))
        tails[turn.lane] = turn.node
    return done


def root(node: fx.Node) -> fx.Node:
    return root(node.all_input_nodes[0]) if node.op in ("call_method", "call_function") else node


@pytest.mark.parametrize("lanes", [1, 2, 3, LANES])
def test_every_step_waits_for_what_it_reads(plan: fx.GraphModule, lanes: int) -> None:
    turns = schedule(plan.graph, lanes)
    done = before(turns)
    assert [turn.node for turn in turns] == [n for n in plan.graph.nodes if n.op not in ("placeholder", "output")]
    assert {turn.lane for turn in turns} == set(range(lanes))
    for turn in turns:
        assert {each for each in turn.node.all_input_nodes if each.op != "placeholder"} <= done[turn.node]
        assert not any(each in done[other] for each in turn.waits for other in turn.waits), "no wait is superfluous"
    assert {turn.node for turn in turns if turn.marked} == {node for turn in turns for node in turn.waits}


@pytest.mark.parametrize("lanes", [1, 2, LANES])
def test_memory_goes_back_only_when_its_lane_knows_that_all_readers_are_done(plan: fx.GraphModule, lanes: int) -> None:
    turns = schedule(plan.graph, lanes)
    done = before(turns)
    home = {turn.node: turn.lane for turn in turns}
    released: set[fx.Node] = set()
    for place, turn in enumerate(turns):
        assert not {*turn.node.all_input_nodes} & released
        for node in turn.releases:
            # What may use the memory again: whatever comes next in the lane that it belongs to.
            later = next((each.node for each in turns[place + 1 :] if each.lane == home[root(node)]), None)
            family = [each for each in home if root(each) is root(node)]
            readers = {reader for each in family for reader in each.users}
            assert later is None or readers <= done[later]
        released |= set(turn.releases)
    (scores,) = (node.args[0] for node in plan.graph.nodes if node.op == "output")
    assert scores not in released
    assert len(released) > 0.8 * len(turns)  # little is kept to the end


def test_branches_run_side_by_side(plan: fx.GraphModule) -> None:
    """The longest chain of steps, each waiting for the one before, is as short as the network allows."""
    turns = schedule(plan.graph)
    done = before(turns)
    depth: dict[fx.Node, int] = {}
    needed: dict[fx.Node, int] = {}
    for turn in turns:
        inputs = [each for each in turn.node.all_input_nodes if each.op != "placeholder"]
        work = int(turn.node.op == "call_module")
        needed[turn.node] = work + max([0, *(needed[each] for each in inputs)])
        depth[turn.node] = work + max([0, *(depth[each] for each in done[turn.node])])
    assert max(needed.values()) > 45
    assert max(depth.values()) <= 1.05 * max(needed.values())
    assert sum(turn.node.op == "call_module" for turn in turns) > 2.9 * max(needed.values())


class Late:
    """Lanes whose work is done late, in an order that is decided by lot: as far as the waiting allows it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - an order
        self.queues: dict[int, list[Any]] = {}
        self.finished: set[object] = set()
        self.current = 0

    @contextmanager
    def use(self, lane: int) -> Iterator[None]:
        """Let what is started belong to a lane."""
        self.current, outer = lane, self.current
        yield
        self.current = outer

    def mark(self, lane: int) -> object:
        """Return what is finished when the lane has come so far."""
        token = object()
        self.queues.setdefault(lane, []).append(("mark", token))
        return token

    def wait(self, lane: int, mark: object) -> None:
        """Let a lane wait for a mark."""
        self.queues.setdefault(lane, []).append(("wait", mark))

    def start(self, work: Any) -> None:
        """Put work into the current lane."""
        self.queues.setdefault(self.current, []).append(("work", work))

    def finish(self) -> None:
        """Do all work."""
        while any(self.queues.values()):
            ready = [
                lane for lane, queue in self.queues.items() if queue and (queue[0][0] != "wait" or self.done(queue[0]))
            ]
            kind, what = self.queues[self.random.choice(ready)].pop(0)
            if kind == "work":
                what()
            elif kind == "mark":
                self.finished.add(what)

    def done(self, entry: tuple[str, object]) -> bool:
        """Tell whether the mark that an entry waits for is finished."""
        return entry[1] in self.finished


class Box:
    """A map that is not there yet."""

    content: Any


def test_in_whatever_order_the_lanes_come_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = pad(regroup(plan_of()))
    source = Box()
    source.content = torch.nn.functional.pad(noise(1, 3, 32, 32), (0, 0, 0, 0, 0, 5))
    with torch.inference_mode():
        expected = plan(source.content)
    for seed in range(3):
        lanes = Late(seed)

        def call(plan: fx.GraphModule, node: fx.Node, values: Any, lanes: Late = lanes) -> Box:
            box = Box()
            args = fx.node.map_arg(node.args, values.__getitem__)

            def work() -> None:
                real = fx.node.map_aggregate(args, lambda each: each.content if isinstance(each, Box) else each)
                box.content = computed(plan, node, real)

            lanes.start(work)
            return box

        monkeypatch.setattr("hrnet_zoo.engines.streams._call", call)
        with torch.inference_mode():
            result: Any = carry_out(plan, schedule(plan.graph), source, lanes)  # type: ignore[arg-type]
            lanes.finish()
        assert relative(result.content, expected) < 5e-6


def computed(plan: fx.GraphModule, node: fx.Node, args: Any) -> Any:
    if node.op == "call_module":
        return plan.get_submodule(str(node.target))(*args)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:])
    return node.target(*args)  # type: ignore[operator]


def test_after_an_error_the_lanes_still_come_together(plan: fx.GraphModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a capture could not be ended."""
    turns = schedule(plan.graph)
    lanes = Late(0)
    left = iter(range(100))

    def call(*args: Any) -> Tensor:
        if next(left) == 99:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(())

    monkeypatch.setattr("hrnet_zoo.engines.streams._call", call)
    with pytest.raises(torch.OutOfMemoryError):
        carry_out(plan, turns, torch.zeros(()), lanes)
    forked = {lane for lane, queue in lanes.queues.items() if lane and any(kind == "wait" for kind, _ in queue)}
    ends = {queue[-1][1] for lane, queue in lanes.queues.items() if lane in forked and queue[-1][0] == "mark"}
    waited = [what for kind, what in lanes.queues[0] if kind == "wait"]
    assert len(ends) == len(forked) > 1
    assert ends <= set(waited)
