"""Buildings, trees, lamps, vehicles and people of a procedural scene.

Each painter turns metres into outlines and paints them, far parts first.
Legend: h w pixels of a window, M patches on a wall, N points.
"""

import numpy as np

from pipelines.synthetic.canvas import (
    ALBEDO,
    DARK,
    WARMTH,
    Box,
    Camera,
    Canvas,
    Label,
    blend,
    bounds,
    ellipse,
    paint,
    surface,
    warm,
)
from pipelines.synthetic.street import (
    Building,
    Climate,
    Colour,
    Item,
    Lamp,
    Person,
    Tree,
    Vehicle,
    mix,
)

Wall = tuple[tuple[float, float], tuple[float, float]]


def paint_object(canvas: Canvas, item: Item, climate: Climate) -> None:
    """Whatever stands on the ground, except buildings."""
    match item:
        case Tree():
            _paint_tree(canvas, item, climate)
        case Lamp():
            _paint_lamp(canvas, item, climate)
        case Vehicle():
            _paint_vehicle(canvas, item, climate)
        case Person():
            _paint_person(canvas, item)


def paint_building(canvas: Canvas, item: Building, climate: Climate) -> None:
    """The wall that faces the camera and the one along the street."""
    rng = np.random.default_rng([item.seed])
    outer = item.x + 15.0 * item.side
    front = ((item.x, item.z_near), (outer, item.z_near))
    flank = ((item.x, item.z_near), (item.x, item.z_far))
    # By day the wall that faces the sun is brighter and warmer.
    sunny = 0.0 if climate.night else 0.12 * float(np.sign(climate.sun_slope)) * item.side
    for wall, light in ((front, 0.92 - sunny), (flank, 0.92 + sunny)):
        _paint_wall(canvas, item, wall, light)
        _paint_windows(canvas, item, wall, climate, rng)


def _wall_quads(camera: Camera, wall: Wall, patches: np.ndarray) -> list[np.ndarray]:
    """Rectangles on a wall (M 4: start, end in shares of its length; low, high in metres)."""
    (x0, z0), (x1, z1) = wall
    start, end, low, high = np.asarray(patches, dtype=np.float64).T
    along = np.stack([start, start, end, end], axis=1)  # M 4
    up = np.stack([low, high, high, low], axis=1)  # M 4
    corners = np.stack([x0 + (x1 - x0) * along, up, z0 + (z1 - z0) * along], axis=2)  # M 4 3
    return list(camera.project(corners.reshape(-1, 3)).reshape(-1, 4, 2))


def _paint_wall(canvas: Canvas, item: Building, wall: Wall, light: float) -> None:
    red, green, blue = (part * light for part in item.colour)
    warmth = item.warmth * (0.75 + 0.25 * light)
    top = item.height
    body = _wall_quads(canvas.camera, wall, np.array([(0, 1, 0, top)]))
    stone = surface((red, green, blue), warmth)
    paint(canvas, body, stone, label=Label.BUILDING, grain=0.10)
    ledges = [(0, 1, v - 0.12, v + 0.12) for v in np.arange(3.4, top, 3.2)]
    bands = np.array([(0, 1, 0, 0.5), *ledges, (0, 1, top - 0.35, top)])
    trim = surface((0.8 * red, 0.8 * green, 0.8 * blue), warmth + 0.03)
    paint(canvas, _wall_quads(canvas.camera, wall, bands), trim, label=Label.BUILDING, grain=0.10)


def _paint_windows(
    canvas: Canvas, item: Building, wall: Wall, climate: Climate, rng: np.random.Generator
) -> None:
    windows = _windows(item, wall)
    kinds = rng.choice(4, size=len(windows), p=_window_shares(item.lit_share))
    frame = surface(mix(item.colour, (0.85, 0.85, 0.82), 0.5), item.warmth - 0.03)
    width = windows[:, 1] - windows[:, 0]
    rim = np.stack([-0.12 * width, 0.12 * width, 0 * width - 0.14, 0 * width + 0.14], axis=1)
    surrounds = _wall_quads(canvas.camera, wall, windows + rim)
    paint(canvas, surrounds, frame, label=Label.BUILDING)
    for kind, material in enumerate(_window_materials(climate)):
        panes = _wall_quads(canvas.camera, wall, _panes(windows[kinds == kind]))
        paint(canvas, panes, material, label=Label.BUILDING, grain=0.2)


def _window_materials(climate: Climate) -> tuple[np.ndarray, ...]:
    """Dark glass, glass that mirrors the sky, warm light, cold light."""
    warmth, glow = climate.glass_warmth, 0.82 if climate.night else 0.3
    glass = (0.16, 0.19, 0.23)
    return (
        surface(glass, warmth),
        surface((0.28, 0.32, 0.37), warmth + 0.04),
        surface(glass, warmth + 0.07, (0.86 * glow, 0.66 * glow, 0.36 * glow)),
        surface(glass, warmth + 0.05, (0.62 * glow, 0.64 * glow, 0.58 * glow)),
    )


def _window_shares(lit_share: float) -> list[float]:
    """How often each of the window materials occurs."""
    dark = 1 - lit_share
    return [0.7 * dark, 0.3 * dark, 0.7 * lit_share, 0.3 * lit_share]


def _windows(item: Building, wall: Wall) -> np.ndarray:
    """The windows of a wall as patches, storey by storey."""
    (x0, z0), (x1, z1) = wall
    columns = max(int((abs(x1 - x0) + abs(z1 - z0)) / 2.6), 1)
    start = (np.arange(columns) + 0.26) / columns
    low = 1.0 + 3.2 * np.arange(int(item.height / 3.2))
    grid_low, grid_start = np.meshgrid(low, start, indexing="ij")
    left, bottom = grid_start.ravel(), grid_low.ravel()
    return np.stack([left, left + 0.48 / columns, bottom, bottom + 1.6], axis=1)  # M 4


def _panes(windows: np.ndarray) -> np.ndarray:
    """Two panes for each window; the frame shows between them."""
    start, end, low, high = windows.T
    inner = 0.46 * (end - start)
    left = np.stack([start, start + inner, low, high], axis=1)
    right = np.stack([end - inner, end, low, high], axis=1)
    return np.concatenate([left, right])  # 2M 4


def _paint_tree(canvas: Canvas, item: Tree, climate: Climate) -> None:
    camera = canvas.camera
    if item.trunk > 0:
        foot, neck = 0.035 * item.height, 0.02 * item.height
        top = item.trunk + item.radius * 0.6
        trunk = camera.upright(item.x, item.z, [(-foot, 0), (foot, 0), (neck, top), (-neck, top)])
        bark = surface((0.20, 0.16, 0.12), climate.plant_warmth + 0.06)
        paint(canvas, [trunk], bark, label=Label.PLANT, grain=0.3)
    middle = (item.height + item.trunk) / 2
    rise = (item.height - item.trunk) / 2
    crown = camera.upright(item.x, item.z, ellipse(0, middle, 1.15 * item.radius, 1.15 * rise))
    box = bounds(canvas, [crown])
    if box is not None:
        _paint_crown(canvas, box, crown, surface(item.colour, climate.plant_warmth))


def _paint_crown(canvas: Canvas, box: Box, crown: np.ndarray, material: np.ndarray) -> None:
    """Leaves: noise cuts the rim of the oval and opens gaps; clumps are lit from above."""
    low, high = crown.min(axis=0), crown.max(axis=0)
    centre, radii = (low + high) / 2, np.maximum((high - low) / 2, 0.5)
    rows = (np.arange(box[0].start, box[0].stop) - centre[1]) / radii[1]
    columns = (np.arange(box[1].start, box[1].stop) - centre[0]) / radii[0]
    distance = (rows[:, None] ** 2 + columns[None] ** 2).astype(np.float32)  # h w
    fine, clump = canvas.fine[box], canvas.clump[box]
    alpha = np.clip((0.70 - distance + 0.55 * fine + 0.55 * clump) * 5, 0, 1)
    blend(canvas, box, alpha, material, label=Label.PLANT)
    lit = 1 - 0.35 * rows[:, None].astype(np.float32) + 0.9 * fine + 0.4 * clump
    leaves = canvas.layers[box]
    leaves[..., ALBEDO] *= (1 + alpha * (np.clip(lit, 0.2, 1.9) - 1))[..., None]
    leaves[..., WARMTH] *= 1 + alpha * (0.25 * fine + 0.15 * clump)


def _paint_lamp(canvas: Canvas, item: Lamp, climate: Climate) -> None:
    camera = canvas.camera
    metal = surface((0.30, 0.31, 0.32), climate.road_warmth - 0.08)
    tip, top = item.arm, item.height
    pole = [(-0.07, 0), (0.07, 0), (0.05, top), (-0.05, top)]
    arm = [(0, top - 0.08), (tip, top + 0.12), (tip, top + 0.22), (0, top + 0.06)]
    parts = [camera.upright(item.x, item.z, outline) for outline in (pole, arm)]
    for part in parts:
        paint(canvas, [part], metal, label=Label.LAMP)
    head = camera.upright(item.x, item.z, ellipse(tip, top + 0.1, 0.32, 0.13))
    shine: Colour = DARK
    if climate.night:
        red, green, blue = item.colour
        shine = (1.6 * red, 1.6 * green, 1.6 * blue)
    # The lamp is LED: as cool as its pole for the infrared camera.
    cover = surface((0.5, 0.5, 0.5), climate.road_warmth - 0.06, shine)
    paint(canvas, [head], cover, label=Label.LAMP)


def _paint_vehicle(canvas: Canvas, item: Vehicle, climate: Climate) -> None:
    """Far parts first: the flank that is seen, the roof, the end that is near."""
    warmth = climate.road_warmth + (0.08 if item.warm else -0.04)
    glass = surface((0.10, 0.12, 0.14), climate.glass_warmth)
    flank = surface(mix(item.colour, DARK, 0.3), warmth)
    top = surface(mix(item.colour, (0.9, 0.93, 1.0), 0.15), warmth - 0.06)
    near = surface(item.colour, warmth)
    sill = surface((0.07, 0.07, 0.07), warmth)
    flank_x = item.x - np.sign(item.x - canvas.camera.x_m) * item.width / 2
    rubber = surface((0.06, 0.06, 0.06), climate.road_warmth + (0.22 if item.warm else -0.02))
    paint(canvas, _near_tyres(canvas.camera, item), rubber, label=Label.VEHICLE)
    for outline, material in (
        (_car_flank(flank_x, item, 0.0, 1.0, 0.18, 0.62), flank),
        (_car_flank(flank_x, item, _hood(item), 0.92, 0.62, 0.98), flank),
        (_car_flank(flank_x, item, _hood(item) + 0.05, 0.86, 0.66, 0.92), glass),
        (_car_cross(item, (0.0, 0.62, 1.0), (_hood(item), 0.64, 0.96)), top),
        (_car_cross(item, (_hood(item) + 0.1, 1.0, 0.8), (0.86, 1.0, 0.8)), top),
        (_car_cross(item, (_hood(item), 0.6, 0.98), (_hood(item) + 0.1, 1.0, 0.8)), near),
        (_car_cross(item, (_hood(item), 0.66, 0.86), (_hood(item) + 0.08, 0.94, 0.72)), glass),
        (_car_cross(item, (0.0, 0.18, 1.0), (0.0, 0.62, 1.0)), near),
        (_car_cross(item, (0.0, 0.16, 0.96), (0.0, 0.27, 0.96)), sill),
    ):
        paint(canvas, [canvas.camera.project(outline)], material, label=Label.VEHICLE, grain=0.05)
    paint(canvas, _flank_wheels(canvas.camera, item, flank_x), rubber, label=Label.VEHICLE)
    _paint_car_lights(canvas, item, climate)
    if item.warm:
        _warm_engine(canvas, item)


def _hood(item: Vehicle) -> float:
    """How far behind the near end the cabin begins, as a share of the length."""
    return 0.24 if item.oncoming and item.height < 1.8 else 0.05


def _car_flank(
    flank_x: float, item: Vehicle, start: float, end: float, low: float, high: float
) -> np.ndarray:
    """A trapezoid on the flank that faces the camera; shares of length and height, in metres."""
    lean = 0.08 if high > 0.7 else 0.0
    corners = [(start, low), (start + lean, high), (end - lean, high), (end, low)]
    return np.array([(flank_x, v * item.height, item.z + a * item.length) for a, v in corners])


def _car_cross(
    item: Vehicle, low: tuple[float, float, float], high: tuple[float, float, float]
) -> np.ndarray:
    """A face across the car between two edges, each (along, up, across) as shares, in metres."""
    (along0, up0, share0), (along1, up1, share1) = low, high
    half = item.width / 2
    z0, z1 = item.z + along0 * item.length, item.z + along1 * item.length
    return np.array(
        [
            (item.x - half * share0, up0 * item.height, z0),
            (item.x - half * share1, up1 * item.height, z1),
            (item.x + half * share1, up1 * item.height, z1),
            (item.x + half * share0, up0 * item.height, z0),
        ]
    )


def _near_tyres(camera: Camera, item: Vehicle) -> list[np.ndarray]:
    reach = 0.4 * item.width
    return [
        camera.upright(item.x, item.z, [(x - 0.1, 0), (x - 0.1, 0.4), (x + 0.1, 0.4), (x + 0.1, 0)])
        for x in (-reach, reach)
    ]


def _flank_wheels(camera: Camera, item: Vehicle, flank_x: float) -> list[np.ndarray]:
    rims = [ellipse(item.z + share * item.length, 0.3, 0.3, 0.3) for share in (0.18, 0.8)]
    return [camera.project([(flank_x, up, z) for z, up in rim]) for rim in rims]


def _paint_car_lights(canvas: Canvas, item: Vehicle, climate: Climate) -> None:
    up, half = 0.48 * item.height, item.width / 2
    glass: Colour = (0.75, 0.75, 0.72) if item.oncoming else (0.45, 0.06, 0.05)
    shine: Colour = DARK
    if climate.night and item.warm:
        shine = (1.7, 1.65, 1.45) if item.oncoming else (0.95, 0.10, 0.07)
    material = surface(glass, climate.road_warmth + 0.05, shine)
    for side in (-1, 1):
        spot = ellipse(side * half * 0.76, up, 0.15, 0.09)
        paint(canvas, [canvas.camera.upright(item.x, item.z, spot)], material, label=Label.VEHICLE)


def _warm_engine(canvas: Canvas, item: Vehicle) -> None:
    camera = canvas.camera
    if item.oncoming:
        grille = ellipse(0, 0.42 * item.height, 0.36 * item.width, 0.22 * item.height)
        hood = _car_cross(item, (0.02, 0.6, 0.7), (0.22, 0.63, 0.7))
        spots = [(camera.upright(item.x, item.z, grille), 0.80), (camera.project(hood), 0.62)]
    else:
        pipe = ellipse(0.27 * item.width, 0.26, 0.18, 0.12)
        floor = ellipse(0, 0.25, 0.4 * item.width, 0.14)
        spots = [
            (camera.upright(item.x, item.z, floor), 0.62),
            (camera.upright(item.x, item.z, pipe), 0.95),
        ]
    for spot, warmth in spots:
        warm(canvas, spot, warmth, Label.VEHICLE)


def _paint_person(canvas: Canvas, item: Person) -> None:
    """Clothes are dull for the eye and warm for the infrared camera, skin is warmest."""
    h, step = item.height, 0.15 * item.stride * item.height
    skin: Colour = (0.42, 0.31, 0.25)
    hair: Colour = (0.10, 0.08, 0.07)
    legs = surface(item.trousers, 0.84 * item.warmth)
    coat = surface(item.coat, 0.90 * item.warmth)
    face = surface(skin, min(1.18 * item.warmth, 0.99))
    swing = item.facing * 0.10 * item.stride * h
    parts = (
        (_limb((-0.04 * h, 0.5 * h), (-0.04 * h - step, 0), 0.055 * h, 0.036 * h), legs),
        (_limb((0.04 * h, 0.5 * h), (0.04 * h + step, 0), 0.055 * h, 0.036 * h), legs),
        (_limb((-0.11 * h, 0.79 * h), (-0.135 * h - swing, 0.45 * h), 0.034 * h, 0.026 * h), coat),
        (_limb((0.11 * h, 0.79 * h), (0.135 * h + swing, 0.45 * h), 0.034 * h, 0.026 * h), coat),
        (_limb((0, 0.80 * h), (0, 0.47 * h), 0.125 * h, 0.095 * h), coat),
        (ellipse(0, 0.92 * h, 0.055 * h, 0.075 * h), face),
        (ellipse(0, 0.965 * h, 0.055 * h, 0.04 * h), surface(hair, 0.86 * item.warmth)),
    )
    for outline, material in parts:
        board = canvas.camera.upright(item.x, item.z, outline)
        paint(canvas, [board], material, label=Label.PERSON, grain=0.12)
    chest = canvas.camera.upright(item.x, item.z, ellipse(0, 0.7 * h, 0.09 * h, 0.14 * h))
    warm(canvas, chest, min(1.06 * item.warmth, 0.98), Label.PERSON)


def _limb(
    start: tuple[float, float], end: tuple[float, float], radius_start: float, radius_end: float
) -> list[list[float]]:
    """A tapered limb between two joints, widened across its own direction."""
    along = np.subtract(end, start)
    across = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6)
    corners = (
        np.add(start, across * radius_start),
        np.add(end, across * radius_end),
        np.subtract(end, across * radius_end),
        np.subtract(start, across * radius_start),
    )
    return [corner.tolist() for corner in corners]
