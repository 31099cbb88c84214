"""Scores at a quarter of the size -> the best class of each pixel of the picture, without making its scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import torch

from hrnet_zoo.scores import Index, ScoreMap, Taps, Window, axis_taps

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

UNKNOWN = 255
CACHED_BYTES = 1 << 20

Span = tuple[int, int, int]


@dataclass(frozen=True)
class _Run:
    start: int
    taps: tuple[dict[Span, Taps], ...]
    share: Floats | None
    bands: Index

    def lengths(self) -> Index:
        return np.diff(self.bands)

    def tapped(self, span: Span, which: slice) -> list[Index]:
        starts = self.bands[:-1][which]
        places: list[Index] = []
        for taps in self.taps:
            if span in taps:
                for each in (taps[span].first[starts], taps[span].second[starts]):
                    fresh = np.ones(len(each), bool)
                    for other in places:
                        fresh &= each != other
                    if fresh.any():
                        places.append(each)
        return places


def _runs(spans: list[Span], inner: int, outer: int) -> list[_Run]:
    if inner == outer:
        sides, share = [np.arange(outer)], None
    else:
        both = axis_taps(inner, outer)
        sides, share = [both.first, both.second], both.share
    covers = np.stack([(start <= side) & (side < stop) for side in sides for start, stop, _ in spans])
    cuts = [0, *(np.flatnonzero((covers[:, 1:] != covers[:, :-1]).any(axis=0)) + 1).tolist(), outer]
    runs = []
    for start, stop in pairwise(cuts):
        taps = tuple(
            {
                span: axis_taps(span[2], span[1] - span[0]).at(side[start:stop] - span[0])
                for span in spans
                if span[0] <= side[start] < span[1]
            }
            for side in sides
        )
        places = np.stack([places for each in taps for tap in each.values() for places in (tap.first, tap.second)])
        changes = np.flatnonzero((places[:, 1:] != places[:, :-1]).any(axis=0)) + 1
        bands = np.concatenate(([0], changes, [stop - start]))
        runs.append(_Run(start, taps, None if share is None else share[start:stop], bands))
    return runs


def _row_span(w: Window) -> Span:
    return w.rows.start, w.rows.stop, w.scores.shape[0]


def _column_span(w: Window) -> Span:
    return w.columns.start, w.columns.stop, w.scores.shape[1]


def _slack(view: ScoreMap):
    largest = max(float(w.scores.float().abs().max()) for w in view.windows)
    return 40 * 2.0**-24 * largest + 2.0**-120


@dataclass(frozen=True)
class _Patch:
    down: Span
    across: Span
    row: int
    column: int
    height: int
    width: int
    offset: int

    def place(self, rows: Index, columns: Index) -> Index:
        return rows * self.width + columns + (self.offset - self.row * self.width - self.column)


def best_classes(view: ScoreMap, height: int, width: int, max_memory: int = 12 << 20) -> Labels:
    mask = np.empty((height, width), np.uint8)
    slack = np.float32(_slack(view))
    across = _runs(sorted({_column_span(w) for w in view.windows}), view.width, width)
    for down in _runs(sorted({_row_span(w) for w in view.windows}), view.height, height):
        for run in across:
            _strips(mask, view, down, run, slack, max_memory)
    return np.ascontiguousarray(mask[:, ::-1]) if view.mirrored else mask


def _strips(mask, view, down, across, slack, max_memory):
    count = len(down.bands) - 1
    # scores a band needs
    per = sum(w.scores.shape[1] * w.scores.shape[2] * 4 for w in view.windows)
    step = max(1, int(max_memory // 2 // per))
    for first in range(0, count, step):
        _fill(mask, view, down, across, slack, slice(first, min(first + step, count)))


def _fill(mask, view, down, across, slack, which):
    patches, x = _gathered(view, down, across, which)
    labels = _labels(x, slack)
    blocks = _agreed(labels, patches, down, across, which)
    lengths = down.lengths()[which]
    cols = np.repeat(np.arange(blocks.shape[1]), across.lengths())
    wide = blocks.take(cols, axis=1)
    y0 = down.start + down.bands[which.start]
    y1 = down.start + down.bands[which.stop]
    mask[y0:y1, across.start : across.start + len(cols)] = wide.take(np.repeat(np.arange(len(lengths)), lengths), axis=0)
    bi, bj = np.nonzero(blocks == UNKNOWN)
    if len(bi) == 0:
        return
    _decide(mask, view, x, patches, down, across, which, bi, bj, slack)


def _gathered(view, down, across, which):
    patches = []
    offset = 0
    sources = []
    for w in view.windows:
        rs, cs = _row_span(w), _column_span(w)
        rows, columns = down.tapped(rs, which), across.tapped(cs, slice(None))
        if rows and columns:
            r0, r1 = min(int(a.min()) for a in rows), max(int(a.max()) for a in rows) + 1
            c0, c1 = min(int(a.min()) for a in columns), max(int(a.max()) for a in columns) + 1
            patches.append(_Patch(rs, cs, r0, c0, r1 - r0, c1 - c0, offset))
            sources.append(w.scores[r0:r1, c0:c1])
            offset += (r1 - r0) * (c1 - c0)
    x = np.empty((view.windows[0].scores.shape[2], offset), np.float32)
    for p, s in zip(patches, sources, strict=True):
        part = x[:, p.offset : p.offset + p.height * p.width].reshape(-1, p.height, p.width)
        torch.from_numpy(part).copy_(s.permute(2, 0, 1))
    return patches, x


def _labels(x, slack):
    classes, count = x.shape
    labels = np.empty(count, np.uint8)
    for start in range(0, count, 8192):
        part = x[:, start : start + 8192]
        best = part[0].copy()
        second = np.full_like(best, -np.inf)
        spare = np.empty_like(best)
        for c in range(1, classes):
            np.minimum(best, part[c], out=spare)
            np.maximum(second, spare, out=second)
            np.maximum(best, part[c], out=best)
        label = labels[start : start + 8192]
        np.subtract(best, second, out=spare)
        label[:] = 0
        np.multiply((spare <= slack).view(np.uint8), UNKNOWN, out=label)
        is_best = np.empty(len(best), bool)
        byte = is_best.view(np.uint8)
        for c in range(1, classes):
            np.equal(part[c], best, out=is_best)
            np.multiply(byte, np.uint8(c), out=byte)
            np.bitwise_or(label, byte, out=label)
    return labels


def _all_bits(different):
    return np.negative(different.view(np.uint8))


def _agreed(labels, patches, down, across, which):
    agreed = None
    for p in patches:
        part = labels[p.offset : p.offset + p.height * p.width].reshape(p.height, p.width)
        rows = [r - p.row for r in down.tapped(p.down, which)]
        cols = [c - p.column for c in across.tapped(p.across, slice(None))]
        first = part.take(rows[0], axis=0)
        other = np.zeros_like(first)
        for r in rows[1:]:
            other |= part.take(r, axis=0) ^ first
        first |= _all_bits(other != 0)
        block = first.take(cols[0], axis=1)
        other = np.zeros_like(block)
        for c in cols[1:]:
            other |= first.take(c, axis=1) ^ block
        block |= _all_bits(other != 0)
        if agreed is None:
            agreed = block
        else:
            agreed |= _all_bits(agreed != block)
    return agreed


def _decide(mask, view, x, patches, down, across, which, bi, bj, slack):
    classes = len(x)
    places = [
        p.place(r[bi], c[bj])
        for p in patches
        for r, c in product(down.tapped(p.down, which), across.tapped(p.across, slice(None)))
    ]
    step = max(256, CACHED_BYTES // (classes * 12))
    bi = bi + which.start
    lr, lc = down.lengths(), across.lengths()
    short_r, short_c = (2 * lr < lr.max())[bi], (2 * lc < lc.max())[bj]
    counts, cands = [], []
    for start in range(0, len(bi), step):
        some = slice(start, start + step)
        low = x.take(places[0][some], axis=1)
        high = low.copy()
        for place in places[1:]:
            v = x.take(place[some], axis=1)
            np.minimum(low, v, out=low)
            np.maximum(high, v, out=high)
        bar = low.max(axis=0)
        bar -= slack
        may = np.ascontiguousarray((high >= bar).T)
        counts.append(may.sum(axis=1))
        cands.append((np.flatnonzero(may) % classes))
    counts, cands = np.concatenate(counts), np.concatenate(cands)
    starts = np.cumsum(counts) - counts
    if STATS is not None:
        STATS["blocks"] = STATS.get("blocks", 0) + len(bi)
        STATS["pairs"] = STATS.get("pairs", 0) + int(counts.sum())
        STATS["pixels"] = STATS.get("pixels", 0) + int((lr[bi] * lc[bj]).sum())
        STATS["open"] = STATS.get("open", 0) + int((lr[bi] * lc[bj])[counts > 1].sum())
    for sr in (False, True):
        for sc in (False, True):
            group = np.flatnonzero((short_r == sr) & (short_c == sc))
            if len(group):
                group = group[np.argsort(-counts[group], kind="stable")]
                ny, nx = int(lr[bi[group]].max()), int(lc[bj[group]].max())
                _group(mask, view, x, patches, down, across, bi[group], bj[group], ny, nx, counts[group], starts[group], cands)


STATS = None


def _group(mask, view, x, patches, down, across, bi, bj, ny, nx, counts, starts, cands):
    ys = np.minimum(down.bands[:-1] + np.arange(ny)[:, None], down.bands[1:] - 1)
    xs = np.minimum(across.bands[:-1] + np.arange(nx)[:, None], across.bands[1:] - 1)
    total = np.cumsum(counts)
    most = max(1, CACHED_BYTES // (ny * nx * 4))
    begin = 0
    width = mask.shape[1]
    while begin < len(bi):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + most, side="right")))
        some = slice(begin, end)
        i, j, k, s = bi[some], bj[some], counts[some], starts[some]
        begin = end
        ahead = [int(np.searchsorted(-k, -n, side="left")) for n in range(int(k[0]))]  # blocks with more than n
        label = np.empty((ny, nx, len(i)), np.uint8)
        label[:] = cands[s].astype(np.uint8)
        if len(ahead) > 1:
            m = ahead[1]
            ahead[0] = m
            of = np.concatenate([np.arange(n) for n in ahead])
            nth = np.repeat(np.arange(len(ahead)), ahead)
            cls = cands[s[of] + nth]
            values = _values(view, x, patches, down, across, i[of], j[of], cls, ys, xs)
            best = values[:, :, :m]
            at = m
            lab8 = cls.astype(np.uint8)
            for n in ahead[1:]:
                v = values[:, :, at : at + n]
                more = v > best[:, :, :n]
                np.maximum(best[:, :, :n], v, out=best[:, :, :n])
                lab = label[:, :, :n]
                change = lab ^ lab8[at : at + n]
                change &= _all_bits(more)
                lab ^= change
                at += n
        where = (ys + down.start)[:, i][:, None] * width + (xs + across.start)[:, j][None]
        mask.reshape(-1)[where] = label


def _mix(near, far, share, axis):
    """1 - share times near + share times far"""
    rest = 1 - share
    if axis is not None:
        rest, share = np.expand_dims(rest, axis), np.expand_dims(share, axis)
    total = near * rest
    total += far * share
    return total


def _values(view, x, patches, down, across, i, j, cls, ys, xs):
    classes, count = x.shape
    flat = x.reshape(-1)
    base = cls * count
    memo = {}
    # positions
    def side(a, b):
        total = None
        number = 0
        for p in patches:
            if p.down not in down.taps[a] or p.across not in across.taps[b]:
                continue
            rt, ct = down.taps[a][p.down], across.taps[b][p.across]
            f, s = rt.first[down.bands[:-1]][i], rt.second[down.bands[:-1]][i]
            share = rt.share[ys].take(i, axis=1)
            ends = []
            for c in (ct.first, ct.second):
                c = c[across.bands[:-1]][j]
                ends.append(_mix(flat.take(base + p.place(f, c)), flat.take(base + p.place(s, c)), share, None))
            value = _mix(ends[0][:, None], ends[1][:, None], ct.share[xs].take(j, axis=1), 0)
            if total is None:
                total = value
            else:
                total += value
            number += 1
        if len(view.windows) > 1:
            total /= np.float32(number)
        return total
    ends = []
    for b in range(len(across.taps)):
        value = side(0, b)
        if down.share is not None:
            value = _mix(value, side(1, b), down.share[ys].take(i, axis=1), 1)
        ends.append(value)
    if across.share is not None:
        return _mix(ends[0], ends[1], across.share[xs].take(j, axis=1), 0)
    return ends[0]
