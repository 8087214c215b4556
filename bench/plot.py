"""A plot of paired rounds as SVG text: each round a dot, each kind's median a line."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 640, 320, 60, 40, 30


@dataclass(frozen=True, slots=True)
class Panel:
    """One quantity; `pairs` of (without, with)."""

    title: str
    pairs: list[tuple[float, float]]


def svg(title: str, panels: list[Panel]) -> str:
    """All panels side by side, each from zero on its own scale."""
    width = (WIDTH - LEFT) / len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"',
        f' font-size="11"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT / 2}" y="16" font-size="13">{title}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, LEFT + number * width, width)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, x: float, width: float) -> list[str]:
    most = max(max(pair) for pair in panel.pairs) * 1.05 or 1.0
    floor, ceiling = HEIGHT - BOTTOM, TOP + 20
    columns = (x + width * 0.28, x + width * 0.68)

    def y(value: float) -> float:
        return floor - value / most * (floor - ceiling)

    parts = [f'<text x="{x}" y="{TOP + 10}">{panel.title}</text>']
    for share in (0, 0.5, 1):
        value = most * share
        parts.append(f'<text x="{x - 4}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#666">{value:.3g}</text>')
        parts.append(f'<path d="M{x} {y(value):.1f}H{x + width * 0.9:.1f}" stroke="#ddd"/>')
    for without, hanging in panel.pairs:
        line = f"M{columns[0]:.1f} {y(without):.1f}L{columns[1]:.1f} {y(hanging):.1f}"
        parts.append(f'<path d="{line}" stroke="#bbb" fill="none"/>')
    for side, (name, colour) in enumerate((("without A", "#1f77b4"), ("with A", "#d62728"))):
        values = [pair[side] for pair in panel.pairs]
        at = columns[side]
        parts += [f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="3" fill="{colour}"/>' for value in values]
        middle = y(median(values))
        parts.append(f'<path d="M{at - 22:.1f} {middle:.1f}H{at + 22:.1f}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{at:.1f}" y="{floor + 16}" text-anchor="middle">{name}</text>')
    return parts
