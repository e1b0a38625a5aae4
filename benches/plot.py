"""Line plots as SVG, readable on light and on dark pages: text and axes take the page's colour scheme."""

import math
from html import escape

WIDTH, HEIGHT = 830, 440
LEFT, RIGHT, TOP, BOTTOM = 70, 260, 40, 56
# Told apart by people who see few colours too, on white as on black.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8a63d2", "#7f7f7f"]
STYLE = """
  text { font: 13px sans-serif; fill: #222 } .small { font-size: 11px }
  .axis { stroke: #444; fill: none } .grid { stroke: #8886; stroke-width: .6 }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .axis { stroke: #aaa } }
"""


def short(number):
    """A figure for an axis: 10k, 1M, 0.01."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:g}{unit}"
    return f"{number:g}"


class Axis:
    def __init__(self, values, low, high, log):
        self.low, self.high, self.log = low, high, log
        if log:
            self.least = 10 ** math.floor(math.log10(min(values)) + 1e-9)
            self.most = 10 ** math.ceil(math.log10(max(values)) - 1e-9)
            self.most = max(self.most, self.least * 10)
            count = round(math.log10(self.most / self.least))
            self.ticks = [self.least * 10**at for at in range(count + 1)]
        else:
            self.least, most = 0, max(values)
            step = 10 ** math.floor(math.log10(most))
            step = next(part for part in (step / 5, step / 2, step, step * 2) if most / part <= 8)
            self.ticks = [step * at for at in range(math.ceil(most / step - 1e-9) + 1)]
            self.most = self.ticks[-1]

    def place(self, value):
        if self.log:
            share = math.log(max(value, self.least) / self.least) / math.log(self.most / self.least)
        else:
            share = (value - self.least) / (self.most - self.least)
        return self.low + share * (self.high - self.low)


def svg(title, across, up, lines, log=(True, True), level=None):
    """`lines`: {name: [(x, y), …]}; `level`: (y, name) of a line across."""
    points = [point for line in lines.values() for point in line if not any(log) or min(point) > 0]
    x = Axis([point[0] for point in points], LEFT, WIDTH - RIGHT, log[0])
    y = Axis([point[1] for point in points] + ([level[0]] if level else []), HEIGHT - BOTTOM, TOP, log[1])
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
           f"<style>{STYLE}</style>", f'<text x="{LEFT}" y="22" font-weight="bold">{escape(title)}</text>']
    for tick in x.ticks:
        at = x.place(tick)
        out.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>')
        out.append(f'<text class="small" x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{short(tick)}</text>')
    for tick in y.ticks:
        at = y.place(tick)
        out.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}"/>')
        out.append(f'<text class="small" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    out.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(across)}</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">{escape(up)}</text>')
    if level:
        at = y.place(level[0])
        out.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#c00" stroke-dasharray="6 4"/>')
        out.append(f'<text class="small" x="{WIDTH - RIGHT + 6}" y="{at + 4:.1f}">{escape(level[1])}</text>')
    for at, (name, line) in enumerate(lines.items()):
        colour = COLOURS[at % len(COLOURS)]
        places = [(x.place(a), y.place(b)) for a, b in line if not any(log) or min(a, b) > 0]
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
        out.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(places) < 40:
            out.extend(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places)
        row = TOP + 40 + 20 * at
        out.append(f'<line x1="{WIDTH - RIGHT + 12}" y1="{row - 4}" x2="{WIDTH - RIGHT + 34}" y2="{row - 4}" stroke="{colour}" stroke-width="3"/>')
        out.append(f'<text class="small" x="{WIDTH - RIGHT + 40}" y="{row}">{escape(name)}</text>')
    return "\n".join(out) + "\n</svg>\n"


def exponent(points):
    """The slope of log y over log x: 1 is linear, 0 does not grow. Over the last decades, where constants matter least."""
    points = [(math.log(a), math.log(b)) for a, b in points if a > 0 and b > 0][-3:]
    if len(points) < 2:
        return float("nan")
    mean = [sum(point[side] for point in points) / len(points) for side in (0, 1)]
    over = sum((a - mean[0]) * (b - mean[1]) for a, b in points)
    return over / sum((a - mean[0]) ** 2 for a, _ in points)
