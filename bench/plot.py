"""Draws recall@10 against queries a second from the CSV of bench_search, as SVG.

Usage: plot.py search.csv search.svg

The rate is on a logarithmic axis; recall on the logarithm of what is missing (1 - recall), so that
0.90, 0.95 and 0.99 are about as far from one another as they are hard.
"""

import csv
import math
import sys

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 40, 50
COLOURS = {"OmenDB": "#c0392b", "hnswlib": "#2c6fbb", "faiss": "#4a8f3c"}
RECALLS = (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def read_curves(path):
    curves = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            point = (min(float(row["recall"]), 0.9995), float(row["queries_per_second"]))
            if point[0] >= 0.6:
                curves.setdefault(row["library"], []).append(point)
    return curves


def difficulty(recall):
    return -math.log10(1 - recall)


class Axes:
    """Maps recall and rate to places on the page."""

    def __init__(self, curves):
        points = [point for curve in curves.values() for point in curve]
        self.recall = (min(p[0] for p in points), max(p[0] for p in points))
        self.rate = (min(p[1] for p in points) * 0.8, max(p[1] for p in points) * 1.25)

    def x(self, recall):
        low, high = (difficulty(value) for value in self.recall)
        return LEFT + (difficulty(recall) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, rate):
        low, high = (math.log10(value) for value in self.rate)
        return HEIGHT - BOTTOM - (math.log10(rate) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)


def text(x, y, content, anchor="middle", colour="#333"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
            f'font-family="sans-serif" font-size="12">{content}</text>')


def line(x1, y1, x2, y2):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def grid(axes):
    for recall in RECALLS:
        if axes.recall[0] <= recall <= axes.recall[1]:
            x = axes.x(recall)
            yield line(x, TOP, x, HEIGHT - BOTTOM)
            yield text(x, HEIGHT - BOTTOM + 18, f"{recall:g}")
    for exponent in range(1, 7):
        for digit in (1, 2, 5):
            rate = digit * 10 ** exponent
            if axes.rate[0] <= rate <= axes.rate[1]:
                y = axes.y(rate)
                yield line(LEFT, y, WIDTH - RIGHT, y)
                yield text(LEFT - 8, y + 4, f"{rate:,}", "end")


def curve(axes, number, name, points):
    colour = COLOURS.get(name, "#777")
    path = " ".join(f"{axes.x(r):.1f},{axes.y(q):.1f}" for r, q in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for recall, rate in points:
        yield f'<circle cx="{axes.x(recall):.1f}" cy="{axes.y(rate):.1f}" r="3" fill="{colour}"/>'
    yield text(WIDTH - RIGHT - 10, TOP + 18 + 18 * number, name, "end", colour)


def draw(curves):
    axes = Axes(curves)
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
           f'viewBox="0 0 {WIDTH} {HEIGHT}"><rect width="100%" height="100%" fill="#fff"/>')
    yield from grid(axes)
    for number, (name, points) in enumerate(curves.items()):
        yield from curve(axes, number, name, points)
    yield text(WIDTH / 2, 22, "queries a second (one thread) against recall@10")
    yield text(WIDTH / 2, HEIGHT - 12, "recall@10")
    yield "</svg>"


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    curves = read_curves(sys.argv[1])
    if not curves:
        sys.exit(f"{sys.argv[1]} has no points at recall 0.6 or above")
    with open(sys.argv[2], "w") as file:
        file.write("\n".join(draw(curves)) + "\n")


if __name__ == "__main__":
    main()
