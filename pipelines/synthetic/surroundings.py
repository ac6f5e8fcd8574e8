"""Sky, skyline, street and shadows of a procedural scene.

Legend: H W pixels, N points.
"""

import cv2
import numpy as np

from pipelines.synthetic.canvas import (
    ALBEDO,
    EMISSION,
    WARMTH,
    Camera,
    Canvas,
    Label,
    bounds,
    coverage,
    ellipse,
    paint,
    surface,
)
from pipelines.synthetic.street import (
    Building,
    Climate,
    Item,
    Lamp,
    Layout,
    Person,
    Tree,
    Vehicle,
    mix,
)


def paint_sky(canvas: Canvas, climate: Climate) -> None:
    """Cold for the infrared camera, except haze and clouds; light of its own for the other."""
    height = canvas.labels.shape[0]
    row = np.arange(height, dtype=np.float32)[:, None] / max(canvas.camera.horizon_px, 1.0)
    fall = np.clip(row, 0, 1) ** 1.5  # H 1; 0 zenith, 1 horizon
    cloud = np.clip(canvas.coarse * 1.6 + 0.1, 0, 1) * (1 - 0.6 * fall)  # H W
    zenith, skyline = np.array((climate.zenith, climate.skyline), dtype=np.float32)
    sky = zenith + (skyline - zenith) * fall[..., None]  # H 1 3
    white = np.float32(0.9 if not climate.night else 0.10)
    emission = sky + (white - sky) * (0.55 * cloud)[..., None]
    canvas.layers[..., EMISSION] = emission
    canvas.layers[..., WARMTH] = climate.sky_warmth + 0.10 * fall + 0.06 * cloud


def paint_skyline(canvas: Canvas, climate: Climate) -> None:
    """Hills behind everything; they hide the edge where the ground ends."""
    width = canvas.labels.shape[1]
    camera = canvas.camera
    columns = np.linspace(0, width, 65)
    ridge = canvas.coarse[0, np.minimum(columns, width - 1).astype(int)]
    rows = camera.horizon_px - camera.focal_px * (0.045 + 0.03 * ridge)
    base = [(width, camera.horizon_px + 2), (0, camera.horizon_px + 2)]
    outline = np.concatenate([np.stack([columns, rows], axis=1), base])
    colour = mix((0.20, 0.25, 0.22), climate.skyline, 0.0 if climate.night else 0.45)
    material = surface(colour, climate.plant_warmth - 0.05)
    paint(canvas, [outline], material, label=Label.BACKGROUND, grain=0.25)


def strip(camera: Camera, x_left: float, x_right: float, z_near: float, z_far: float) -> np.ndarray:
    """A rectangle on the ground, in pixels."""
    return camera.project(
        [(x_left, 0, z_near), (x_left, 0, z_far), (x_right, 0, z_far), (x_right, 0, z_near)]
    )


def paint_ground(canvas: Canvas, layout: Layout) -> None:
    """Lawn, pavement, kerb and road, each on top of the last, then stains and markings."""
    road, climate, camera = layout.road, layout.climate, canvas.camera
    edge = road.half_width + road.pavement
    pavement = road.grey + 0.14
    surfaces = (
        (200.0, road.lawn, climate.lawn_warmth, 0.30),
        (edge, (pavement, pavement, 0.97 * pavement), climate.road_warmth - 0.03, 0.08),
        (road.half_width + 0.15, (0.62, 0.62, 0.60), climate.road_warmth - 0.05, 0.05),
        (road.half_width, (road.grey, road.grey, 1.03 * road.grey), climate.road_warmth, 0.12),
    )
    for half, colour, warmth, grain in surfaces:
        outline = strip(camera, -half, half, 1.0, 400.0)
        material = surface(colour, warmth)
        paint(canvas, [outline], material, label=Label.BACKGROUND, grain=grain)
    _texture_ground(canvas)
    _paint_markings(canvas, layout)


def ground_metres(canvas: Canvas) -> tuple[np.ndarray, np.ndarray, int]:
    """X and Z of the ground under every pixel below the horizon, and the first such row."""
    camera = canvas.camera
    height, width = canvas.labels.shape
    top = min(int(camera.horizon_px) + 2, height - 1)
    rows = np.arange(top, height, dtype=np.float32)[:, None]
    z = camera.focal_px * camera.height_m / (rows - np.float32(camera.horizon_px))
    x = (
        np.arange(width, dtype=np.float32)[None] - np.float32(camera.centre_px)
    ) * z / camera.focal_px + camera.x_m
    return x.astype(np.float32), np.broadcast_to(z, x.shape).astype(np.float32), top


def _texture_ground(canvas: Canvas) -> None:
    """Stains and grain that lie on the ground, so that they shrink towards the horizon."""
    x, z, top = ground_metres(canvas)
    height, width = canvas.labels.shape
    column = _mirror(x * (width / 9), width - 1)
    row = _mirror(z * (height / 14), height - 1)
    stain = cv2.remap(canvas.coarse, column, row, cv2.INTER_LINEAR)
    stain *= np.clip(12 / z, 0, 1)  # finer than a pixel far away: fade before it flickers
    ground = canvas.layers[top:]
    ground[..., ALBEDO] *= (1 + 0.22 * stain)[..., None]
    ground[..., WARMTH] *= 1 + 0.10 * stain


def _mirror(position: np.ndarray, last: int) -> np.ndarray:
    """Fold positions into [0, last], to and fro, so that a repeated field has no seam."""
    return np.abs(position % (2 * last) - last).astype(np.float32)


def _paint_markings(canvas: Canvas, layout: Layout) -> None:
    road, camera = layout.road, canvas.camera
    dashes = [strip(camera, -0.08, 0.08, z, z + 3) for z in np.arange(2.0, 90, 7.5)]
    inset = road.half_width - 0.35
    lines = [strip(camera, side * inset - 0.07, side * inset + 0.07, 1, 120) for side in (-1, 1)]
    if road.crossing_z is not None:
        near, far = road.crossing_z, road.crossing_z + 3
        bars = np.arange(-road.half_width + 0.6, road.half_width - 0.8, 1.0)
        lines += [strip(camera, x, x + 0.5, near, far) for x in bars]
    white = surface((0.80, 0.80, 0.76), layout.climate.road_warmth - 0.06)
    paint(canvas, dashes, white, label=Label.BACKGROUND, grain=0.15)
    for line in lines:
        paint(canvas, [line], white, label=Label.BACKGROUND, grain=0.15)


def paint_shadows(canvas: Canvas, layout: Layout) -> None:
    """Soft shadows on the ground: the cast one by day, the contact one always."""
    slope = layout.climate.sun_slope
    mask = np.zeros(canvas.labels.shape, dtype=np.float32)
    for item in (*layout.objects, *layout.buildings):
        outline = _shadow(canvas.camera, item, slope)
        box = bounds(canvas, [outline])
        if box is not None:
            mask[box] = np.maximum(mask[box], coverage(box, [outline]))
    soft = cv2.GaussianBlur(mask, (0, 0), max(canvas.labels.shape[1] / 250, 0.5))
    canvas.layers[..., ALBEDO] *= (1 - 0.5 * soft)[..., None]
    canvas.layers[..., WARMTH] *= 1 - 0.10 * soft


def _shadow(camera: Camera, item: Item | Building, slope: float) -> np.ndarray:
    match item:
        case Building():
            far_x = item.x + 15 * item.side
            reach = item.x + slope * item.height * 0.6
            left, right = min(item.x, far_x, reach), max(item.x, far_x, reach)
            return strip(camera, left, right, item.z_near, item.z_far)
        case Vehicle():
            half, reach = item.width / 2, slope * item.height
            left, right = item.x - half + min(reach, 0), item.x + half + max(reach, 0)
            return strip(camera, left, right, item.z - 0.15, item.z + item.length)
        case Tree():
            middle = slope * (item.height + item.trunk) / 2
            oval = ellipse(item.x + middle, item.z, item.radius * 1.2, item.radius * 0.8)
        case Person():
            oval = ellipse(item.x + slope * 0.8, item.z, 0.25 + abs(slope) * 0.8, 0.22)
        case Lamp():
            oval = ellipse(item.x + slope * 2, item.z, 0.1 + abs(slope) * 2, 0.1)
    return camera.project([(x, 0, max(z, 1.0)) for x, z in oval])
