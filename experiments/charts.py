"""Charts of the report as inline SVG: lines, bars with intervals, grouped bars. No plotting library is needed."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

PALETTE = ("#2563eb", "#d97706", "#059669", "#7c3aed", "#dc2626", "#475569")
INK, FAINT, GRID = "#334155", "#64748b", "#e2e8f0"

Series = tuple[Sequence[float], Sequence[float]]  # x and y, of one length


class Frame(NamedTuple):
    """Maps data to the pixels of a chart's inner rectangle."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def px(self, x: float) -> float:
        return self.left + self.width * (x - self.x[0]) / (self.x[1] - self.x[0])

    def py(self, y: float) -> float:
        return self.top + self.height * (1 - (y - self.y[0]) / (self.y[1] - self.y[0]))


class Bar(NamedTuple):
    """One bar of a chart of proportions, all in [0, 1]."""

    label: str
    value: float
    low: float
    high: float
    note: str  # printed at its right


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that lie in [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Exponential mean with the bias at the start removed, so that the first value is the series' own."""
    decay, total, weight, out = 1 - 1 / max(span, 1), 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + (1 - decay) * value, decay * weight + 1 - decay
        out.append(total / weight)
    return out


def line_chart(
    series: Mapping[str, Series], *, title: str, x_label: str, colours: Mapping[str, str] | None = None, size: tuple[int, int] = (460, 260)
) -> str:
    """Curves of named (x, y) series: faint as measured, strong as their running mean. Non-finite values are left out."""
    clean = {name: [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)] for name, (xs, ys) in series.items()}
    clean = {name: points for name, points in clean.items() if points}
    if not clean:
        return _svg(size, [_text(size[0] / 2, size[1] / 2, f"{title}: nothing was recorded", anchor="middle", fill=FAINT)])
    frame = _line_frame(clean, size)
    marks = [_text(frame.left, 20, title, weight=600)] + _grid(frame, x_label)
    for i, (name, points) in enumerate(clean.items()):
        colour = (colours or {}).get(name, PALETTE[i % len(PALETTE)])
        marks += _curve(frame, points, colour) + _legend(frame, i, name, colour)
    return _svg(size, marks)


def interval_chart(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]], *, title: str, x_label: str, size: tuple[int, int] = (460, 260)
) -> str:
    """Proportions over x with their intervals as whiskers: (x, value, low, high) of named series, all but x in [0, 1]."""
    xs = [x for points in series.values() for x, *_ in points]
    if not xs:
        return _svg(size, [_text(size[0] / 2, size[1] / 2, f"{title}: nothing was recorded", anchor="middle", fill=FAINT)])
    x = (min(0.0, *xs), max(xs) if max(xs) > 0 else 1.0)
    frame = Frame(48, 50, size[0] - 76, size[1] - 90, x, (0.0, 1.0))
    marks = [_text(frame.left, 20, title, weight=600)] + _grid(frame, x_label)
    for i, (name, points) in enumerate(series.items()):
        colour = PALETTE[i % len(PALETTE)]
        at = [(frame.px(x), frame.py(value)) for x, value, _, _ in points]
        marks.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in at)}"/>')
        for (a, b), (_, _, low, high) in zip(at, points, strict=True):
            marks.append(_stroke((a, frame.py(low)), (a, frame.py(high)), colour=colour))
            marks.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>')
        marks += _legend(frame, i, name, colour)
    return _svg(size, marks)


def _line_frame(clean: Mapping[str, list[tuple[float, float]]], size: tuple[int, int]) -> Frame:
    xs = [x for points in clean.values() for x, _ in points]
    ys = sorted(y for points in clean.values() for _, y in points)
    # the first steps may tower over the rest: the axis ends at the 99th percentile and curves are clipped there
    high = ys[min(len(ys) - 1, int(0.99 * len(ys)))]
    low = min(ys[0], 0.0)
    top = 34 + 16 * math.ceil(len(clean) / 3)
    x, y = (min(xs), max(xs) + (min(xs) == max(xs))), (low, high * 1.05 if high > low else low + 1)
    return Frame(48, top, size[0] - 64, size[1] - top - 40, x, y)


def _grid(frame: Frame, x_label: str) -> list[str]:
    marks = []
    for value in ticks(*frame.y):
        y = frame.py(value)
        marks.append(f'<line x1="{frame.left}" x2="{frame.left + frame.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        marks.append(_text(frame.left - 6, y + 4, f"{value:g}", anchor="end", fill=FAINT))
    for value in ticks(*frame.x):
        marks.append(_text(frame.px(value), frame.top + frame.height + 16, f"{value:g}", anchor="middle", fill=FAINT))
    marks.append(_text(frame.left + frame.width / 2, frame.top + frame.height + 33, x_label, anchor="middle", fill=FAINT))
    return marks


def _curve(frame: Frame, points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    xs, ys = zip(*points, strict=True)
    mean = smooth(ys, max(1, len(ys) // 25))
    return [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1" opacity=".28" points="{_path(frame, xs, ys)}"/>',
        f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" points="{_path(frame, xs, mean)}"/>',
    ]


def _path(frame: Frame, xs: Sequence[float], ys: Sequence[float]) -> str:
    stride = max(1, len(xs) // 600)
    inside = (min(max(y, frame.y[0]), frame.y[1]) for y in ys[::stride])
    return " ".join(f"{frame.px(x):.1f},{frame.py(y):.1f}" for x, y in zip(xs[::stride], inside, strict=True))


def _legend(frame: Frame, i: int, name: str, colour: str) -> list[str]:
    x, y = frame.left + (i % 3) * frame.width / 3, 36 + 16 * (i // 3)
    return [f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="14" height="4" rx="2" fill="{colour}"/>', _text(x + 19, y - 2, name, fill=INK)]


def bars(rows: Sequence[Bar], *, title: str, colours: Sequence[str] = PALETTE, width: int = 640) -> str:
    """Horizontal bars of proportions on an axis of 0 to 100 %, each with its interval as a whisker."""
    row, top = 38, 40
    frame = Frame(140, top, width - 320, row * len(rows), (0.0, 1.0), (0.0, 1.0))
    marks = [_text(8, 20, title, weight=600)]
    for value in (0, 0.25, 0.5, 0.75, 1):
        x = frame.px(value)
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + frame.height}" stroke="{GRID}"/>')
        marks.append(_text(x, top + frame.height + 16, f"{value:.0%}", anchor="middle", fill=FAINT))
    for i, bar in enumerate(rows):
        marks += _bar(frame, bar, top + row * i, row, colours[i % len(colours)])
    return _svg((width, top + row * len(rows) + 28), marks)


def _bar(frame: Frame, bar: Bar, top: float, row: int, colour: str) -> list[str]:
    middle, low, high = top + row / 2, frame.px(bar.low), frame.px(bar.high)
    return [
        _text(frame.left - 10, middle + 4, bar.label, anchor="end"),
        _rect((frame.left, top + 8), (max(frame.px(bar.value) - frame.left, 1), row - 16), colour),
        _stroke((low, middle), (high, middle)),
        *(_stroke((x, middle - 5), (x, middle + 5)) for x in (low, high)),
        _text(frame.left + frame.width + 14, middle + 4, bar.note, fill=FAINT),
    ]


def grouped_bars(groups: Mapping[str, Mapping[str, float]], *, title: str, line: tuple[str, float], width: int = 640) -> str:
    """Vertical bars of proportions, a few to a group, and one dashed line across (chance)."""
    height, names = 270, list(dict.fromkeys(name for group in groups.values() for name in group))
    peak = max([line[1]] + [value for group in groups.values() for value in group.values()])
    frame = Frame(48, 52, width - 64, height - 90, (0.0, float(len(groups))), (0.0, min(1.0, max(peak * 1.2, 4 * line[1]))))
    marks = [_text(frame.left, 20, title, weight=600)]
    for value in ticks(*frame.y):
        y = frame.py(value)
        marks.append(f'<line x1="{frame.left}" x2="{frame.left + frame.width}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        marks.append(_text(frame.left - 6, y + 4, f"{value:.0%}", anchor="end", fill=FAINT))
    for i, (label, group) in enumerate(groups.items()):
        marks += _group(frame, i, [(names.index(name), value) for name, value in group.items()], len(names))
        marks.append(_text(frame.px(i + 0.5), frame.top + frame.height + 18, label, anchor="middle"))
    for i, name in enumerate([*names, line[0]]):
        marks += _legend(frame, i, name, PALETTE[i] if i < len(names) else INK)
    y = frame.py(line[1])
    return _svg((width, height), [*marks, _stroke((frame.left, y), (frame.left + frame.width, y), dash="5 4")])


def _group(frame: Frame, i: int, group: Sequence[tuple[int, float]], count: int) -> list[str]:
    marks, wide = [], 0.6 / count
    for k, value in group:
        left, right = frame.px(i + 0.2 + wide * k), frame.px(i + 0.2 + wide * (k + 0.9))
        top, base = frame.py(value), frame.py(0)
        marks.append(_rect((left, top), (right - left, base - top), PALETTE[k % len(PALETTE)]))
        marks.append(_text((left + right) / 2, top - 5, f"{value:.1%}", anchor="middle", fill=FAINT))
    return marks


def _rect(corner: tuple[float, float], size: tuple[float, float], colour: str) -> str:
    (x, y), (width, height) = corner, size
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" fill="{colour}" opacity=".85"/>'


def _stroke(start: tuple[float, float], end: tuple[float, float], *, colour: str = INK, dash: str = "") -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1.5"' + (f' stroke-dasharray="{dash}"/>' if dash else "/>")


def _text(x: float, y: float, text: str, *, anchor: str = "start", fill: str = INK, weight: int = 400) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-weight="{weight}">{escape(text)}</text>'


def _svg(size: tuple[int, int], marks: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" font-size="12">{"".join(marks)}</svg>'
