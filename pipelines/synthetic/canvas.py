"""The canvas of a procedural scene: all layers of both images, painted with one mask.

Every object is blended into albedo, warmth and emission at once, so the visible and the infrared
image share their geometry to the sub-pixel.
Legend: H W pixels, h w a window of them, N points, L = 7 layers (albedo RGB, warmth, emission RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

from pipelines.synthetic.street import Colour, Layout

Box = tuple[slice, slice]
Outline = Sequence[Sequence[float]] | np.ndarray

ALBEDO = slice(0, 3)
WARMTH = 3
EMISSION = slice(4, 7)
DARK: Colour = (0.0, 0.0, 0.0)


class Label(IntEnum):
    """What a pixel shows; for tests and for looking, never written beside the images."""

    BACKGROUND = 0
    BUILDING = 1
    PLANT = 2
    LAMP = 3
    VEHICLE = 4
    PERSON = 5


@dataclass(frozen=True)
class Camera:
    """A pinhole that looks along Z, in pixels and metres."""

    x_m: float
    height_m: float
    focal_px: float
    horizon_px: float
    centre_px: float

    def project(self, points: Outline) -> np.ndarray:
        """Points X Y Z in metres (N 3) to pixels x y (N 2)."""
        x, y, z = np.asarray(points, dtype=np.float64).T
        scale = self.focal_px / z
        column = self.centre_px + (x - self.x_m) * scale
        row = self.horizon_px + (self.height_m - y) * scale
        return np.stack([column, row], axis=1)  # N 2

    def upright(self, x: float, z: float, outline: Outline) -> np.ndarray:
        """An outline (right, up) in metres on a board that stands at (x, z), to pixels."""
        return self.project([(x + right, up, z) for right, up in outline])  # N 2


@dataclass(frozen=True)
class Canvas:
    """All layers of a picture in the making, and the noise fields that give it texture."""

    camera: Camera
    layers: np.ndarray  # H W L float32
    labels: np.ndarray  # H W uint8
    fine: np.ndarray  # H W float32 in [-1, 1]
    clump: np.ndarray  # H W float32 in [-1, 1]
    coarse: np.ndarray  # H W float32 in [-1, 1]


def new_canvas(layout: Layout, height: int, width: int, rng: np.random.Generator) -> Canvas:
    """An empty picture of a layout, with its camera and its noise."""
    camera = Camera(
        x_m=layout.camera_x,
        height_m=layout.camera_height,
        focal_px=layout.focal * width,
        horizon_px=layout.horizon * height,
        centre_px=layout.centre * width,
    )
    return Canvas(
        camera=camera,
        layers=np.zeros((height, width, 7), dtype=np.float32),
        labels=np.zeros((height, width), dtype=np.uint8),
        fine=_fractal(height, width, width / 60, 3, 0.95, rng),
        clump=_fractal(height, width, width / 20, 2, 0.5, rng),
        coarse=_fractal(height, width, width / 4, 5, 0.6, rng),
    )


def _fractal(
    height: int,
    width: int,
    cell_px: float,
    octaves: int,
    persistence: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Value noise: random grids, each twice as fine and `persistence` as strong as the last."""
    field = np.zeros((height, width), dtype=np.float32)
    weight = 1.0
    for octave in range(octaves):
        cell = max(cell_px / 2**octave, 1.0)
        shape = (int(height / cell) + 2, int(width / cell) + 2)
        grid = rng.uniform(-weight, weight, shape).astype(np.float32)
        field += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight *= persistence
    return field / np.abs(field).max()  # H W


def surface(albedo: Colour, warmth: float, emission: Colour = DARK) -> np.ndarray:
    """One value per layer; emission is light of its own, visible camera only."""
    return np.array([*albedo, warmth, *emission], dtype=np.float32)  # L


def paint(
    canvas: Canvas,
    outlines: Sequence[np.ndarray],
    material: np.ndarray,
    *,
    label: Label,
    grain: float = 0.0,
) -> None:
    """Fill polygons (each N 2, pixels) with one material; edges are anti-aliased."""
    box = bounds(canvas, outlines)
    if box is not None:
        blend(canvas, box, coverage(box, outlines), material, label=label, grain=grain)


def bounds(canvas: Canvas, outlines: Sequence[np.ndarray]) -> Box | None:
    """The smallest window that holds the outlines, None where they are out of sight."""
    if not outlines:
        return None
    height, width = canvas.labels.shape
    points = np.concatenate(outlines)
    left, top = np.floor(points.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + 2
    left, right = max(left, 0), min(right, width)
    top, bottom = max(top, 0), min(bottom, height)
    return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None


def coverage(box: Box, outlines: Sequence[np.ndarray]) -> np.ndarray:
    """How much of every pixel of the window lies inside the outlines, 0 to 1."""
    rows, columns = box
    mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.uint8)
    origin = (columns.start, rows.start)
    # Four fractional bits: cv2 takes integers, and a far window is smaller than a pixel.
    polygons = [np.round((outline - origin) * 16).astype(np.int32) for outline in outlines]
    cv2.fillPoly(mask, polygons, 255, lineType=cv2.LINE_AA, shift=4)
    return mask * np.float32(1 / 255)  # h w


def blend(
    canvas: Canvas,
    box: Box,
    alpha: np.ndarray,
    material: np.ndarray,
    *,
    label: Label,
    grain: float = 0.0,
) -> None:
    """One mask for all layers: this is what registers the two images."""
    layers = canvas.layers[box]
    target = np.empty_like(layers)  # h w L
    target[...] = material
    if grain > 0:
        fine = canvas.fine[box] * np.float32(grain)
        target[..., ALBEDO] *= (1 + fine)[..., None]
        target[..., WARMTH] *= 1 + 0.4 * fine + np.float32(grain) * canvas.coarse[box]
        if material[EMISSION].any():
            target[..., EMISSION] *= (1 + 1.2 * fine)[..., None]
    target -= layers
    target *= alpha[..., None]
    layers += target
    canvas.labels[box][alpha > 0.5] = label


def warm(canvas: Canvas, spot: np.ndarray, warmth: float, label: Label) -> None:
    """Raise the warmth softly inside an outline, on pixels of one label only."""
    box = bounds(canvas, [spot])
    if box is None:
        return
    extent = spot.max(axis=0) - spot.min(axis=0)
    alpha = cv2.GaussianBlur(coverage(box, [spot]), (0, 0), max(float(extent.min()) / 6, 0.3))
    alpha *= canvas.labels[box] == label
    layer = canvas.layers[box][..., WARMTH]
    layer += alpha * (np.float32(warmth) - layer)


def ellipse(right: float, up: float, radius_right: float, radius_up: float) -> np.ndarray:
    """A polygon in metres that passes for an ellipse, N 2."""
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([right + radius_right * np.cos(angle), up + radius_up * np.sin(angle)], axis=1)
