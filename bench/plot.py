"""Draws recall@10 against queries a second from the CSV of bench_search or of peers.py, as SVG.

Usage: plot.py search.csv search.svg

One panel for each data set. The rate is on a logarithmic axis; recall on the logarithm of what is
missing (1 - recall), so that 0.90, 0.95, 0.99 and 0.999 are about as far from one another as they
are hard. OmenDB is drawn thick and last; the others are named at the right in the order of their rates.
"""

import csv
import math
import sys

PANEL_WIDTH, HEIGHT = 560, 500
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 56, 50
OURS, OUR_COLOUR = "OmenDB", "#c0392b"
# Used again with dashes when there are more curves than colours.
COLOURS = ("#2c6fbb", "#3f8f4f", "#b07d12", "#7d4fa3", "#1f9e9e", "#c25b8a", "#6b6b6b", "#8a5a3b")
DASHES = ("", "6 3", "2 3")
RECALLS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
LOWEST, HIGHEST = 0.8, 0.9995
LABEL_STEP = 15


def read_panels(path):
    """Return {title: {library: [(recall, rate)]}}."""
    panels = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            title = f"{row['dataset']}, {int(row['rows']):,} rows"
            point = (min(float(row["recall"]), HIGHEST), float(row["qps"]))
            curves = panels.setdefault(title, {})
            curves.setdefault(row["library"], []).append(point)
    return {title: {name: frontier(points) for name, points in curves.items() if frontier(points)}
            for title, curves in panels.items()}


def frontier(points):
    """Return the points that no other beats in recall and rate, by recall."""
    best, kept = 0, []
    for recall, rate in sorted(points, reverse=True):
        if rate > best and recall >= LOWEST:
            kept.append((recall, rate))
            best = rate
    return kept[::-1]


def difficulty(recall):
    return -math.log10(1 - recall)


class Axes:
    """Maps recall and rate to places on the page."""

    def __init__(self, curves, left):
        points = [point for curve in curves.values() for point in curve]
        self.left, self.right = left + LEFT, left + PANEL_WIDTH - RIGHT
        self.recall = (LOWEST, max(p[0] for p in points))
        self.rate = (min(p[1] for p in points) * 0.85, max(p[1] for p in points) * 1.2)

    def x(self, recall):
        low, high = (difficulty(value) for value in self.recall)
        return self.left + (difficulty(recall) - low) / (high - low) * (self.right - self.left)

    def y(self, rate):
        low, high = (math.log10(value) for value in self.rate)
        return HEIGHT - BOTTOM - (math.log10(rate) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def text(x, y, content, anchor="middle", colour="#333", weight="normal", size=12):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
            f'font-family="sans-serif" font-size="{size}" font-weight="{weight}">{content}</text>')


def line(x1, y1, x2, y2, colour="#e2e2e2"):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def grid(axes):
    for recall in RECALLS:
        if axes.recall[0] <= recall <= axes.recall[1]:
            x = axes.x(recall)
            yield line(x, TOP, x, HEIGHT - BOTTOM)
            yield text(x, HEIGHT - BOTTOM + 18, f"{recall:g}", size=11)
    for exponent in range(1, 7):
        for digit in (1, 2, 5):
            rate = digit * 10 ** exponent
            if axes.rate[0] <= rate <= axes.rate[1]:
                y = axes.y(rate)
                yield line(axes.left, y, axes.right, y)
                yield text(axes.left - 8, y + 4, f"{rate:,}", "end", size=11)


def styles(panels):
    """Give every library one style in all panels."""
    others = sorted({name for curves in panels.values() for name in curves} - {OURS})
    chosen = {name: (COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)], 1.5)
              for i, name in enumerate(others)}
    chosen[OURS] = (OUR_COLOUR, "", 3.5)
    return chosen


def curve(axes, points, style):
    colour, dash, width = style
    places = [(axes.x(recall), axes.y(rate)) for recall, rate in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield (f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}" '
           f'stroke-dasharray="{dash}" stroke-linejoin="round"/>')
    for x, y in places:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 0.5}" fill="{colour}"/>'


def labels(axes, curves, chosen):
    """Name the curves beside the panel, from fast to slow, each joined to its last point."""
    order = sorted(curves, key=lambda name: -curves[name][-1][1])
    top = TOP + 8
    for name in order:
        recall, rate = curves[name][-1]
        colour, dash, width = chosen[name]
        wanted = axes.y(rate)
        room = HEIGHT - BOTTOM - LABEL_STEP * (len(order) - order.index(name) - 1)
        y = min(max(wanted, top), room)
        top = y + LABEL_STEP
        x = axes.right + 34
        yield (f'<polyline points="{axes.x(recall) + 4:.1f},{wanted:.1f} {axes.right + 10:.1f},{y:.1f} '
               f'{x - 4:.1f},{y:.1f}" fill="none" stroke="{colour}" stroke-width="{min(width, 1.5)}" '
               f'stroke-dasharray="{dash}" opacity="0.6"/>')
        yield text(x, y + 4, name, "start", colour, "bold" if name == OURS else "normal")


def panel(title, curves, left, chosen):
    axes = Axes(curves, left)
    yield from grid(axes)
    yield line(axes.left, HEIGHT - BOTTOM, axes.right, HEIGHT - BOTTOM, "#888")
    yield line(axes.left, TOP, axes.left, HEIGHT - BOTTOM, "#888")
    for name in sorted(curves, key=lambda name: name == OURS):
        yield from curve(axes, curves[name], chosen[name])
    yield from labels(axes, curves, chosen)
    middle = (axes.left + axes.right) / 2
    yield text(middle, TOP - 10, title, weight="bold")
    yield text(middle, HEIGHT - 12, "recall@10")


def draw(panels):
    width = PANEL_WIDTH * len(panels)
    chosen = styles(panels)
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT}" '
           f'viewBox="0 0 {width} {HEIGHT}"><rect width="100%" height="100%" fill="#fff"/>')
    yield text(16, 22, "queries a second, one thread, one query at a time", "start")
    for number, (title, curves) in enumerate(panels.items()):
        yield from panel(title, curves, number * PANEL_WIDTH, chosen)
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    panels = {title: curves for title, curves in read_panels(sys.argv[1]).items() if curves}
    if not panels:
        sys.exit(f"{sys.argv[1]} has no points at recall {LOWEST} or above")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(draw(panels)) + "\n")


if __name__ == "__main__":
    main()
