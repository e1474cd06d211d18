"""Draws what filters.py measured against the share of rows that match, as SVG.

Usage: plot_filters.py filters.csv filters.svg

A row of panels for each data set: recall at the effort that has 0.95 without a condition, and queries a
second at a recall of 0.95, both against the share, on a logarithmic axis that goes from many to few.
What never gets to 0.95 is drawn as a ring, at its highest recall, if that is 0.1 at least. Cells that
do not belong to the line (of one part of the space) stand beside it, without lines.
"""

import csv
import math
import sys

from filters import TARGET, at_equal_recall
from plot import COLOURS, DASHES, OUR_COLOUR, line, text

PANEL_WIDTH, PANEL_HEIGHT = 700, 430
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 50, 62
SIDE = 120  # for the cells beside the line
LEAST_RECALL = 0.1  # what finds less has no place among rates
OURS = "OmenDB"
LABEL_STEP = 15
PROMISED = OURS + " recall=0.95"


def read_sets(path):
    """Return {(dataset, rows): {cell: (share, on the line, {library: points})}}."""
    sets = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            cells = sets.setdefault((row["dataset"], int(row["rows"])), {})
            cell = cells.setdefault(row["cell"], (float(row["share"]), row["line"] == "1", {}))
            cell[2].setdefault(row["library"], []).append(
                {"recall": float(row["recall"]), "qps": float(row["qps"]), "fixed": row["fixed"] == "1"})
    return sets


class Axes:
    """Maps a cell and a value to a place on the page."""

    def __init__(self, cells, left, top, low, high, logarithmic):
        self.left, self.top = left + LEFT, top + TOP
        self.right, self.bottom = left + PANEL_WIDTH - RIGHT, top + PANEL_HEIGHT - BOTTOM
        self.low, self.high, self.logarithmic = low, high, logarithmic
        beside = [name for name, (_, on_line, _) in cells.items() if not on_line and name != "all"]
        self.end = self.right - (SIDE if beside else 0)
        self.beside = {name: self.end + SIDE * (i + 0.75) / len(beside)
                       for i, name in enumerate(beside)}
        self.least = min(share for share, on_line, _ in cells.values() if on_line)

    def x(self, name, share):
        if name in self.beside:
            return self.beside[name]
        return self.left + 12 + math.log(1 / share) / math.log(1 / self.least) * (
            self.end - self.left - 24)

    def y(self, value):
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.bottom - part * (self.bottom - self.top)


def grid(axes, cells):
    for exponent in range(0, 7):
        share = 10.0 ** -exponent
        if share >= axes.least * 0.99:
            x = axes.x("", share)
            yield line(x, axes.top, x, axes.bottom)
            yield text(x, axes.bottom + 18, f"{share * 100:g} %", size=11)
    yield text((axes.left + axes.end) / 2, axes.bottom + 36, "share of rows that match")
    for name, x in axes.beside.items():
        yield line(x, axes.top, x, axes.bottom)
        words = name.split(" ", 1)
        for i, word in enumerate([*words, f"{cells[name][0] * 100:.1f} %"]):
            yield text(x, axes.bottom + 16 + 12 * i, word, size=10)
    if axes.logarithmic:
        ticks = [10.0 ** e for e in range(0, 8)]
    else:
        ticks = [i / 10 for i in range(0, 11)]
    for value in ticks:
        if axes.low <= value <= axes.high:
            y = axes.y(value)
            yield line(axes.left, y, axes.right, y)
            yield text(axes.left - 8, y + 4, f"{value:,.0f}" if axes.logarithmic else f"{value:g}",
                       "end", size=11)
    yield line(axes.left, axes.bottom, axes.right, axes.bottom, "#888")
    yield line(axes.left, axes.top, axes.left, axes.bottom, "#888")


def curves_of(cells, value):
    """Return {library: [(cell, share, on the line, value, whether it gets to the target)]}."""
    curves = {}
    for name, (share, on_line, libraries) in cells.items():
        for library, points in libraries.items():
            found = value(points)
            if found is not None and name != "all":
                curves.setdefault(library, []).append((name, share, on_line, *found))
    return {library: sorted(points, key=lambda point: -point[1]) for library, points in curves.items()}


def fixed_recall(points):
    return next(((point["recall"], True) for point in points if point["fixed"]), None)


def equal_rate(points):
    rate, recall = at_equal_recall(points)
    return None if recall < LEAST_RECALL else (rate, recall >= TARGET)


def styles(names):
    others = sorted(set(names) - {OURS, PROMISED})
    chosen = {name: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)], 1.5)
              for i, name in enumerate(others)}
    chosen[OURS] = (OUR_COLOUR, "", 3.5)
    chosen[PROMISED] = (OUR_COLOUR, "3 3", 2)
    return chosen


def curve(axes, points, style):
    colour, dash, width = style
    on_line = [(axes.x(name, share), axes.y(value)) for name, share, joined, value, _ in points
               if joined]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in on_line)
    yield (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
           f'stroke-dasharray="{dash}" stroke-linejoin="round"/>')
    for name, share, _, value, is_reached in points:
        fill = colour if is_reached else "#fff"
        yield (f'<circle cx="{axes.x(name, share):.1f}" cy="{axes.y(value):.1f}" r="{width + 1}" '
               f'fill="{fill}" stroke="{colour}"/>')


def labels(axes, curves, chosen):
    """Name the curves beside the panel, in the order of their ends, each joined to its last point."""
    ends = {name: points[-1] for name, points in curves.items()}
    order = sorted(ends, key=lambda name: axes.y(ends[name][3]))
    place = axes.top
    for number, name in enumerate(order):
        colour, dash, width = chosen[name]
        room = axes.bottom - LABEL_STEP * (len(order) - number - 1)
        y = min(max(axes.y(ends[name][3]), place), room)
        place = y + LABEL_STEP
        end = max(axes.x(point[0], point[1]) for point in curves[name])
        value = axes.y(ends[name][3])
        yield (f'<polyline points="{end + 5:.1f},{value:.1f} {axes.right + 8:.1f},{y:.1f} '
               f'{axes.right + 24:.1f},{y:.1f}" fill="none" stroke="{colour}" opacity="0.5" '
               f'stroke-width="{min(width, 1.5)}" stroke-dasharray="{dash}"/>')
        yield text(axes.right + 28, y + 4, name, "start", colour, "bold" if name == OURS else "normal",
                   11)


def panel(title, cells, left, top, value, chosen, logarithmic):
    curves = curves_of(cells, value)
    values = [point[3] for points in curves.values() for point in points]
    low, high = (min(values) / 1.3, max(values) * 1.3) if logarithmic else (0, 1)
    axes = Axes(cells, left, top, low, high, logarithmic)
    yield from grid(axes, cells)
    for name in sorted(curves, key=lambda name: name == OURS):
        yield from curve(axes, curves[name], chosen[name])
    yield from labels(axes, curves, chosen)
    yield text((axes.left + axes.right) / 2, axes.top - 12, title, weight="bold")


def draw(sets):
    width, height = 2 * PANEL_WIDTH, PANEL_HEIGHT * len(sets)
    chosen = styles(name for cells in sets.values() for cell in cells.values() for name in cell[2])
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}"><rect width="100%" height="100%" fill="#fff"/>')
    for number, ((name, rows), cells) in enumerate(sets.items()):
        top = number * PANEL_HEIGHT
        yield from panel(f"{name}, {rows:,} rows: recall@10 at the effort of 0.95 without a condition",
                         cells, 0, top, fixed_recall, chosen, False)
        yield from panel(f"{name}, {rows:,} rows: queries a second at a recall of 0.95", cells,
                         PANEL_WIDTH, top, equal_rate, chosen, True)
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sets = read_sets(sys.argv[1])
    if not sets:
        sys.exit(f"{sys.argv[1]} has no points")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(draw(sets)) + "\n")


if __name__ == "__main__":
    main()
