"""Captioned clips of one moving shape: the grammar of the captions, and a renderer. Needs torch alone.

A clip has 5 key frames of 96 x 96 pixels. Its caption is `a {colour} {shape} {motion} {background}`, as in
"a red circle moving left at night". Everything that the caption leaves open is drawn: where the shape is, how large,
how far it goes.
"""

from __future__ import annotations

import itertools
import math

import torch

FRAMES = 5
SIZE = 96
PIXEL = 1.5  # width in pixels over which an outline is blended

COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.75, 0.15),
    "blue": (0.12, 0.25, 0.95),
    "yellow": (0.98, 0.88, 0.10),
    "purple": (0.68, 0.15, 0.82),
    "white": (0.97, 0.97, 0.97),
    "orange": (0.98, 0.50, 0.05),
    "cyan": (0.10, 0.86, 0.94),
}
SHAPES = ("circle", "square", "triangle", "cross", "star", "ring")
MOTIONS = ("moving left", "moving right", "moving up", "moving down", "growing", "shrinking")
BACKGROUNDS = {
    "at night": (0.05, 0.05, 0.14),
    "on sand": (0.80, 0.66, 0.45),
    "on the sea": (0.04, 0.40, 0.46),
    "in fog": (0.55, 0.57, 0.60),
}
NAMES: dict[str, tuple[str, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "motion": MOTIONS,
    "background": tuple(BACKGROUNDS),
}
HELD_OUT = frozenset(
    {
        ("red", "cross"),
        ("blue", "triangle"),
        ("green", "circle"),
        ("yellow", "square"),
        ("orange", "star"),
        ("cyan", "ring"),
    }
)  # pairs of colour and shape that no training clip has

TRAVEL = 40.0  # pixels from the first to the last frame
GROWTH = 15.0  # pixels of radius, likewise
# Vertical shading of the background, top to bottom.
SHADE = torch.linspace(1.10, 0.90, SIZE).view(-1, 1)


def caption(
    colour: str | None = None, shape: str | None = None, motion: str | None = None, background: str | None = None
) -> str:
    """The caption of these attributes; those that are None are left out.

    Raises:
        ValueError: a name that the grammar does not have.
    """
    given = {"colour": colour, "shape": shape, "motion": motion, "background": background}
    for kind, name in given.items():
        if name is not None and name not in NAMES[kind]:
            raise ValueError(f"{kind}: no {name!r}. Choose from: {', '.join(NAMES[kind])}.")
    return " ".join(word for word in ("a", colour, shape or "shape", motion, background) if word)


CAPTIONS, HELD_OUT_CAPTIONS = (
    tuple(
        caption(colour, shape, motion, background)
        for colour, shape, motion, background in itertools.product(*NAMES.values())
        if ((colour, shape) in HELD_OUT) == held_out
    )
    for held_out in (False, True)
)


def caption_of(row: torch.Tensor) -> str:
    """The caption of one row of `draw`."""
    return caption(*(NAMES[kind][int(index)] for kind, index in zip(NAMES, row, strict=True)))


def draw(count: int, generator: torch.Generator, held_out: bool | None = False) -> torch.Tensor:
    """Random attributes, [count, 4] indices into the values of NAMES.

    Args:
        held_out: False for the pairs that training uses, True for those that it never sees, None for any.
    """
    rows = torch.stack([torch.randint(len(names), (count,), generator=generator) for names in NAMES.values()], 1)
    if held_out is None:
        return rows
    table = torch.tensor([[(colour, shape) in HELD_OUT for shape in SHAPES] for colour in COLOURS])
    while (wrong := table[rows[:, 0], rows[:, 1]] != held_out).any():
        for column, names in ((0, COLOURS), (1, SHAPES)):
            rows[wrong, column] = torch.randint(len(names), (int(wrong.sum()),), generator=generator)
    return rows


def signed_distance(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Distance in pixels from the outline of a shape, negative inside. y points down, as in pictures.

    `radius` is about that of the circle of equal area.
    """
    if shape == "circle":
        return torch.hypot(x, y) - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.886 * radius
    if shape == "triangle":
        up, half = -y - 0.12 * radius, math.sqrt(3) / 2
        return torch.maximum(half * x.abs() + up / 2, -up) - 0.777 * radius
    if shape == "cross":
        long, short = 1.19 * radius, 0.40 * radius
        across = torch.maximum(x.abs() - long, y.abs() - short)
        return torch.minimum(across, torch.maximum(y.abs() - long, x.abs() - short))
    if shape == "star":
        return _star(x, y, 1.36 * radius, 0.62 * radius)
    if shape == "ring":
        return (torch.hypot(x, y) - 0.90 * radius).abs() - 0.32 * radius
    raise ValueError(f"No shape {shape!r}. Choose from: {', '.join(SHAPES)}.")


def _star(x: torch.Tensor, y: torch.Tensor, outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """Five points, one of them up: the plane folded onto half a point, and the distance from its edge."""
    turn = 2 * math.pi / 5
    angle = (torch.remainder(torch.atan2(x, -y) + turn / 2, turn) - turn / 2).abs()
    length = torch.hypot(x, y)
    u, v = length * torch.cos(angle), length * torch.sin(angle)
    edge_u, edge_v = inner * math.cos(turn / 2) - outer, inner * math.sin(turn / 2)
    return ((u - outer) * edge_v - v * edge_u) / torch.hypot(edge_u, edge_v)


def coverage(shape: str, x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """How much of each pixel a shape covers: [..., SIZE, SIZE] in 0..1, for centres and radii of shape [...]."""
    pixels = torch.arange(SIZE) + 0.5
    dx = pixels.view(1, -1) - x[..., None, None]
    dy = pixels.view(-1, 1) - y[..., None, None]
    dx, dy = dx + torch.zeros_like(dy), dy + torch.zeros_like(dx)
    return (0.5 - signed_distance(shape, dx, dy, radius[..., None, None]) / PIXEL).clamp(0, 1)


def render(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Clips of these attributes, [count, FRAMES, 3, SIZE, SIZE] in 0..1."""
    count = len(rows)
    colour, shape, motion, background = rows.unbind(1)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    time = torch.linspace(-0.5, 0.5, FRAMES)
    travel, growth = between(0.9, 1.1) * TRAVEL * time, between(0.9, 1.1) * GROWTH * time
    x, y = between(SIZE / 2 - 6, SIZE / 2 + 6), between(SIZE / 2 - 6, SIZE / 2 + 6)
    steps = torch.tensor([[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])[motion].float()
    x, y = x + steps[:, :1] * travel, y + steps[:, 1:2] * travel
    radius = between(14.5, 17.5) + steps[:, 2:] * growth

    mask = torch.empty(count, FRAMES, SIZE, SIZE)
    for kind, name in enumerate(SHAPES):
        chosen = shape == kind
        if chosen.any():
            mask[chosen] = coverage(name, x[chosen], y[chosen], radius[chosen])
    mask = mask[:, :, None]
    shades = torch.tensor(list(COLOURS.values()))[colour] + 0.015 * torch.randn(count, 3, generator=generator)
    grounds = torch.tensor(list(BACKGROUNDS.values()))[background] * between(0.95, 1.05)
    front = shades.clamp(0, 1)[:, None, :, None, None]
    return (mask * front + (1 - mask) * grounds[:, None, :, None, None] * SHADE).clamp(0, 1)
