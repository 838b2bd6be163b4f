"""Scenes to pictures: icons placed on backgrounds, as tensors."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from playground.starter import world
from playground.starter.icons import Icons

SIZE = 64  # pixels of a picture


def paste(canvas: Tensor, icon: Tensor, size: float, x: float, y: float) -> None:
    """Draw one icon on a picture, in place.

    Args:
        canvas: (3, SIZE, SIZE), 0…1.
        icon: uint8 RGBA, (4, edge, edge).
        size: edge length as a share of the picture.
        x, y: offset of its centre from the picture's, in shares of the picture.
    """
    edge = max(4, round(size * SIZE))
    rgba = icon.float() / 255
    rgba[:3] *= rgba[3:]
    rgba = F.interpolate(rgba[None], (edge, edge), mode="bilinear", antialias=True)[0]
    left, top = (round(SIZE / 2 + offset * SIZE - edge / 2) for offset in (x, y))
    into = (slice(max(top, 0), min(top + edge, SIZE)), slice(max(left, 0), min(left + edge, SIZE)))
    rgba = rgba[:, into[0].start - top : into[0].stop - top, into[1].start - left : into[1].stop - left]
    area = canvas[:, into[0], into[1]]
    area.mul_(1 - rgba[3:]).add_(rgba[:3])


def background(name: str) -> Tensor:
    """A picture of one named colour, (3, SIZE, SIZE), 0…1."""
    return (torch.tensor(world.BACKGROUNDS[name]).float() / 255)[:, None, None].repeat(1, SIZE, SIZE)


def pictures(icons: Icons, scenes: Sequence[world.Scene]) -> Tensor:
    """The scenes drawn: (scenes, 3, SIZE, SIZE), -1…1."""
    index = {noun: i for i, noun in enumerate(icons.nouns)}
    drawn = []
    for scene in scenes:
        canvas = background(scene.background)
        for placed in scene.objects:
            icon = icons.pixels[index[placed.noun], world.STYLES.index(placed.style)]
            paste(canvas, torch.from_numpy(icon), placed.size, placed.x, placed.y)
        drawn.append(canvas)
    return torch.stack(drawn) * 2 - 1


def anything(icons: Icons, count: int, rng: random.Random) -> Tensor:
    """Pictures for the VAE, wider than the world: any icon, colour, size, mirrored, recoloured. -1…1."""
    flat = icons.pixels.reshape(-1, *icons.pixels.shape[2:])
    drawn = []
    for _ in range(count):
        if rng.random() < 0.6:
            canvas = background(rng.choice(list(world.BACKGROUNDS)))
        else:
            one, other = (torch.tensor([rng.random() for _ in range(3)])[:, None, None] for _ in range(2))
            slope = torch.linspace(0, 1 if rng.random() < 0.5 else 0, SIZE)[None, :, None]
            canvas = (one * (1 - slope) + other * slope).expand(3, SIZE, SIZE).clone()
        for _ in range(rng.choice((1, 1, 2))):
            number = rng.randrange(len(flat) + len(icons.extra))
            icon = torch.from_numpy(flat[number] if number < len(flat) else icons.extra[number - len(flat)])
            if rng.random() < 0.5:
                icon = icon.flip(-1)
            if rng.random() < 0.3:
                icon = icon[[*rng.sample(range(3), 3), 3]]
            size = rng.uniform(0.35, 0.95)
            shift = (1 - size) / 2
            paste(canvas, icon, size, rng.uniform(-shift, shift), rng.uniform(-shift, shift))
        drawn.append(canvas)
    return torch.stack(drawn) * 2 - 1


def scenes(
    icons: Icons,
    count: int,
    rng: random.Random,
    *,
    pairs: float = 0.0,
    places: bool = False,
    loose: float = 1.0,
    without: frozenset[tuple[str, str]] = frozenset(),
) -> list[world.Scene]:
    """Scenes that go round all name × style pairs (except ``without``) and backgrounds evenly."""
    allowed = [(n, s) for n in icons.nouns for s in world.STYLES if (n, s) not in without]
    by_style = {style: [n for n, s in allowed if s == style] for style in world.STYLES}
    colours = list(world.BACKGROUNDS)
    rng.shuffle(allowed)
    made = []
    for i in range(count):
        noun, style = allowed[i % len(allowed)]
        colour = colours[(i % len(allowed) + i // len(allowed)) % len(colours)]
        others = [n for n in by_style[style] if n != noun] if rng.random() < pairs else []
        if others:
            made.append(world.pair(noun, rng.choice(others), style, colour, rng))
        else:
            made.append(world.single(noun, style, colour, rng, places, loose))
    return made
