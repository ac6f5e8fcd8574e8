"""The layout of a procedural street scene: what is drawn at random, in metres, without pixels.

Units: metres, X right, Y up, Z away from the camera along the street; colours are RGB in [0, 1];
warmth is the grey level of the infrared image in [0, 1].
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Climate:
    """Light and temperatures of the hour; warmth is the grey level of the infrared image."""

    night: bool
    zenith: Colour
    skyline: Colour
    ambient: Colour
    sun_slope: float  # metres of shadow per metre of height, to the right
    sky_warmth: float
    road_warmth: float
    lawn_warmth: float
    wall_warmth: float
    plant_warmth: float
    glass_warmth: float


@dataclass(frozen=True)
class Road:
    """The street: half its width, the pavement beside it, and what lies beyond."""

    half_width: float
    pavement: float
    grey: float
    lawn: Colour
    crossing_z: float | None


@dataclass(frozen=True)
class Building:
    """A box beside the street; `side` -1 stands left, +1 right."""

    side: int
    x: float
    z_near: float
    z_far: float
    height: float
    colour: Colour
    warmth: float
    lit_share: float
    seed: int


@dataclass(frozen=True)
class Tree:
    """A trunk and a crown; a bush is a tree without trunk."""

    x: float
    z: float
    height: float
    radius: float
    trunk: float
    colour: Colour


@dataclass(frozen=True)
class Lamp:
    """A street lamp with an arm towards the street; it shines at night."""

    x: float
    z: float
    height: float
    arm: float
    colour: Colour


@dataclass(frozen=True)
class Vehicle:
    """A car or a van that drives along Z; `oncoming` shows its front, `warm` its engine runs."""

    x: float
    z: float
    width: float
    length: float
    height: float
    colour: Colour
    oncoming: bool
    warm: bool


@dataclass(frozen=True)
class Person:
    """A walker; `stride` in [-1, 1] opens the legs, `facing` is the side of the leading arm."""

    x: float
    z: float
    height: float
    stride: float
    facing: int
    coat: Colour
    trousers: Colour
    warmth: float


Item = Tree | Lamp | Vehicle | Person


@dataclass(frozen=True)
class Layout:
    """Everything that is drawn at random about a scene, in metres; no pixel sizes."""

    camera_x: float
    camera_height: float
    focal: float  # in image widths
    horizon: float  # in image heights
    centre: float  # in image widths
    climate: Climate
    road: Road
    buildings: tuple[Building, ...]
    objects: tuple[Item, ...]  # the farthest first


def draw_layout(seed: int) -> Layout:
    """Draw a scene; the same seed gives the same scene at every image size."""
    rng = np.random.default_rng([seed])
    climate = _draw_night(rng) if rng.random() < 0.5 else _draw_day(rng)
    road = _draw_road(rng)
    objects: tuple[Item, ...] = (
        *_draw_trees(rng, road),
        *_draw_lamps(rng, road),
        *_draw_vehicles(rng, road),
        *_draw_people(rng, road),
    )
    return Layout(
        camera_x=rng.uniform(-0.7, 0.7) * road.half_width,
        camera_height=rng.uniform(2.2, 4.2),
        focal=rng.uniform(0.8, 1.1),
        horizon=rng.uniform(0.36, 0.48),
        centre=rng.uniform(0.35, 0.65),
        climate=climate,
        road=road,
        buildings=tuple(_draw_buildings(rng, road, climate)),
        objects=tuple(sorted(objects, key=lambda item: -item.z)),
    )


def _draw_day(rng: np.random.Generator) -> Climate:
    blue = rng.uniform(0, 1)  # 0 overcast, 1 clear
    light = rng.uniform(0.85, 1.1)
    return Climate(
        night=False,
        zenith=mix((0.66, 0.69, 0.73), (0.30, 0.50, 0.80), blue),
        skyline=mix((0.80, 0.81, 0.82), (0.75, 0.84, 0.93), blue),
        ambient=(light * (1 + 0.04 * blue), light, light * (1 - 0.05 * blue)),
        sun_slope=float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.6)),
        sky_warmth=rng.uniform(0.05, 0.14),
        road_warmth=rng.uniform(0.36, 0.46),
        lawn_warmth=rng.uniform(0.27, 0.34),
        wall_warmth=rng.uniform(0.32, 0.44),
        plant_warmth=rng.uniform(0.24, 0.32),
        glass_warmth=rng.uniform(0.18, 0.26),
    )


def _draw_night(rng: np.random.Generator) -> Climate:
    light = rng.uniform(0.13, 0.24)
    haze = rng.uniform(0.04, 0.14)
    return Climate(
        night=True,
        zenith=(0.02, 0.03, 0.06),
        skyline=(0.03 + haze, 0.04 + 0.8 * haze, 0.08 + 0.6 * haze),
        ambient=(0.88 * light, 0.95 * light, 1.2 * light),
        sun_slope=0.0,
        sky_warmth=rng.uniform(0.02, 0.07),
        road_warmth=rng.uniform(0.26, 0.34),
        lawn_warmth=rng.uniform(0.16, 0.22),
        wall_warmth=rng.uniform(0.26, 0.36),
        plant_warmth=rng.uniform(0.20, 0.27),
        glass_warmth=rng.uniform(0.18, 0.40),
    )


def _draw_road(rng: np.random.Generator) -> Road:
    lawns: tuple[Colour, ...] = ((0.27, 0.36, 0.16), (0.38, 0.37, 0.22), (0.42, 0.40, 0.37))
    return Road(
        half_width=rng.uniform(3.2, 5.5),
        pavement=rng.uniform(1.8, 3.5),
        grey=rng.uniform(0.26, 0.40),
        lawn=lawns[int(rng.integers(len(lawns)))],
        crossing_z=rng.uniform(11, 18) if rng.random() < 0.4 else None,
    )


def _draw_buildings(rng: np.random.Generator, road: Road, climate: Climate) -> Iterator[Building]:
    paints: tuple[Colour, ...] = (
        (0.52, 0.35, 0.28), (0.66, 0.60, 0.50), (0.55, 0.55, 0.56), (0.72, 0.69, 0.64),
        (0.40, 0.42, 0.46), (0.60, 0.48, 0.36),
    )  # fmt: skip
    for side in (-1, 1):
        z = rng.uniform(6, 26) if rng.random() < 0.75 else rng.uniform(45, 70)
        setback = road.half_width + road.pavement + rng.uniform(0.3, 5)
        while z < 95:
            length = rng.uniform(10, 26)
            if rng.random() < 0.8:
                yield Building(
                    side=side,
                    x=side * (setback + rng.uniform(0, 1.5)),
                    z_near=z,
                    z_far=z + length,
                    height=3.2 * rng.integers(2, 7) + 0.8,
                    colour=_jitter(rng, paints[int(rng.integers(len(paints)))], 0.06),
                    warmth=climate.wall_warmth + rng.uniform(-0.05, 0.05),
                    lit_share=rng.uniform(0.15, 0.55) if climate.night else 0.03,
                    seed=int(rng.integers(2**32)),
                )
            z += length + rng.choice([0.0, rng.uniform(2, 9)])


def _draw_trees(rng: np.random.Generator, road: Road) -> Iterator[Tree]:
    for _ in range(rng.integers(3, 9)):
        side = rng.choice([-1, 1])
        height = rng.uniform(4.0, 8.5)
        yield Tree(
            x=side * (road.half_width + road.pavement + rng.uniform(0.0, 4)),
            z=rng.uniform(11, 60),
            height=height,
            radius=height * rng.uniform(0.24, 0.36),
            trunk=height * rng.uniform(0.28, 0.4),
            colour=_jitter(rng, (0.21, 0.27, 0.13), 0.06),
        )
    for _ in range(rng.integers(2, 8)):
        side = rng.choice([-1, 1])
        radius = rng.uniform(0.5, 1.1)
        yield Tree(
            x=side * (road.half_width + road.pavement + rng.uniform(0.2, 3)),
            z=rng.uniform(9, 40),
            height=1.6 * radius,
            radius=radius,
            trunk=0.0,
            colour=_jitter(rng, (0.21, 0.28, 0.14), 0.06),
        )


def _draw_lamps(rng: np.random.Generator, road: Road) -> Iterator[Lamp]:
    tints: tuple[Colour, ...] = ((1.0, 0.80, 0.48), (1.0, 0.94, 0.82), (0.86, 0.94, 1.0))
    tint = tints[int(rng.integers(len(tints)))]
    height, spacing = rng.uniform(4.5, 7.0), rng.uniform(14, 24)
    sides = [(-1,), (1,), (-1, 1)][int(rng.integers(3))]
    for z in np.arange(rng.uniform(10, 18), 75, spacing):
        for side in sides:
            x = side * (road.half_width + 0.5)
            yield Lamp(x=x, z=float(z), height=height, arm=-1.3 * side, colour=tint)


def _draw_vehicles(rng: np.random.Generator, road: Road) -> Iterator[Vehicle]:
    paints: tuple[Colour, ...] = (
        (0.10, 0.10, 0.11), (0.22, 0.23, 0.25), (0.48, 0.49, 0.50), (0.70, 0.70, 0.69),
        (0.34, 0.08, 0.08), (0.10, 0.15, 0.32), (0.30, 0.31, 0.27),
    )  # fmt: skip
    for z in np.arange(rng.uniform(10, 18), 58, rng.uniform(9, 16)):
        van = rng.random() < 0.2
        side = int(rng.choice([-1, 1]))
        parked = rng.random() < 0.35
        lane = road.half_width - 1.1 if parked else road.half_width * rng.uniform(0.42, 0.55)
        yield Vehicle(
            x=side * lane,
            z=float(z + rng.uniform(-2, 2)),
            width=1.95 if van else rng.uniform(1.7, 1.85),
            length=5.0 if van else rng.uniform(3.9, 4.6),
            height=2.1 if van else rng.uniform(1.4, 1.6),
            colour=_jitter(rng, paints[int(rng.integers(len(paints)))], 0.03),
            oncoming=side < 0,
            warm=not parked or rng.random() < 0.3,
        )


def _draw_people(rng: np.random.Generator, road: Road) -> Iterator[Person]:
    cloths: tuple[Colour, ...] = (
        (0.13, 0.13, 0.15), (0.24, 0.24, 0.25), (0.30, 0.27, 0.23), (0.17, 0.20, 0.26),
        (0.26, 0.29, 0.22), (0.36, 0.35, 0.34),
    )  # fmt: skip
    for _ in range(rng.integers(3, 9)):
        if rng.random() < 0.75:
            beside = road.half_width + rng.uniform(0.2, road.pavement)
            x = float(rng.choice([-1, 1]) * beside)
        else:
            x = rng.uniform(-road.half_width, road.half_width)
        yield Person(
            x=x,
            z=rng.uniform(8.5, 30),
            height=rng.uniform(1.55, 1.9),
            stride=rng.uniform(-1, 1),
            facing=int(rng.choice([-1, 1])),
            coat=_jitter(rng, cloths[int(rng.integers(len(cloths)))], 0.03),
            trousers=_jitter(rng, cloths[int(rng.integers(len(cloths)))], 0.03),
            warmth=rng.uniform(0.68, 0.84),
        )


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour `share` of the way from a to b."""
    red, green, blue = (p + (q - p) * share for p, q in zip(a, b, strict=True))
    return (red, green, blue)


def _jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    shift = rng.uniform(-amount, amount)
    red, green, blue = (
        float(np.clip(part + shift + rng.uniform(-amount, amount) / 2, 0.02, 0.95))
        for part in colour
    )
    return (red, green, blue)
