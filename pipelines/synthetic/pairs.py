"""Procedural street scenes as exactly registered visible / infrared pairs.

A scene is drawn first (a layout in metres, no pixels) and painted second, every object into all
layers of one canvas with one mask.  The visible image is albedo x light + emission; the infrared
one is the warmth layer.  Legend: H W pixels.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from pipelines.sources.pictures import encode_png
from pipelines.store.files import write_whole
from pipelines.store.seeding import rng_at
from pipelines.synthetic.canvas import ALBEDO, EMISSION, WARMTH, Canvas, new_canvas
from pipelines.synthetic.objects import paint_building, paint_object
from pipelines.synthetic.street import Colour, Lamp, Layout, Vehicle, draw_layout
from pipelines.synthetic.surroundings import (
    ground_metres,
    paint_ground,
    paint_shadows,
    paint_sky,
    paint_skyline,
)


def render_scene(
    seed: int, *, height: int = 240, width: int = 320
) -> tuple[np.ndarray, np.ndarray]:
    """One registered pair: visible uint8 H×W×3 RGB and infrared uint8 H×W×1, 16 pixels or more."""
    if min(height, width) < 16:
        raise ValueError(f"a scene of {height}×{width} pixels shows nothing; ask for 16 or more")
    layout = draw_layout(seed)
    rng = np.random.default_rng([seed, 1])
    canvas = paint_layout(layout, height, width, rng)
    return _visible(canvas, layout, rng), _infrared(canvas, rng)


def write_scenes(
    folder: Path,
    *,
    split_counts: Mapping[str, int],
    seed: int,
    height: int,
    width: int,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Write `<split>/vi/<number>.png` and `<split>/ir/<number>.png`; files that are right stay untouched.

    A scene depends on the seed, its split and its number only, so a larger count adds scenes and
    changes none.  `on_progress` gets the number of scenes done so far.
    """
    done = 0
    for split, count in split_counts.items():
        for modality in ("vi", "ir"):
            (folder / split / modality).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            scene_seed = int(rng_at(seed, split, str(index)).integers(2**63))
            vi, ir = render_scene(scene_seed, height=height, width=width)
            _write_png(folder / split / "vi" / f"{index:04d}.png", vi)
            _write_png(folder / split / "ir" / f"{index:04d}.png", ir)
            done += 1
            if on_progress is not None:
                on_progress(done)


def _write_png(path: Path, image: np.ndarray) -> None:
    content = encode_png(image)
    if not (path.exists() and path.read_bytes() == content):
        write_whole(path, content)


def paint_layout(layout: Layout, height: int, width: int, rng: np.random.Generator) -> Canvas:
    """Paint every object of a layout into all layers and the labels of one canvas."""
    canvas = new_canvas(layout, height, width, rng)
    paint_sky(canvas, layout.climate)
    paint_skyline(canvas, layout.climate)
    paint_ground(canvas, layout)
    paint_shadows(canvas, layout)
    for building in sorted(layout.buildings, key=lambda item: -item.z_near):
        paint_building(canvas, building, layout.climate)
    for item in layout.objects:
        paint_object(canvas, item, layout.climate)
    return canvas


def _light(canvas: Canvas, layout: Layout) -> np.ndarray:
    """What falls on the surfaces: daylight, or little of it and the pools under the lamps."""
    climate = layout.climate
    light = np.empty((*canvas.labels.shape, 3), dtype=np.float32)  # H W 3
    light[...] = climate.ambient
    light *= (1 + 0.06 * canvas.coarse)[..., None]
    if climate.night:
        x, z, top = ground_metres(canvas)
        for item in layout.objects:
            if isinstance(item, Lamp):
                _add_pool(light[top:], x - (item.x + item.arm), z - item.z, 12.0, item.colour)
                _add_glow(canvas, light, item)
            if isinstance(item, Vehicle) and item.warm:
                away = -6.0 if item.oncoming else item.length + 6.0
                _add_pool(
                    light[top:], x - item.x, (z - item.z - away) / 2.2, 3.0, (0.5, 0.48, 0.42)
                )
    return light


def _add_pool(
    light: np.ndarray, dx: np.ndarray, dz: np.ndarray, spread: float, colour: Colour
) -> None:
    falloff = 0.95 / (1 + (dx**2 + dz**2) / spread) ** 1.5  # h W
    light += falloff[..., None] * np.array(colour, dtype=np.float32)


def _add_glow(canvas: Canvas, light: np.ndarray, item: Lamp) -> None:
    """Light on the leaves and walls round a lamp, by distance on the picture."""
    camera = canvas.camera
    (centre,) = camera.project([(item.x + item.arm, item.height, item.z)])
    reach = 2.2 * camera.focal_px / item.z
    height, width = canvas.labels.shape
    rows = np.exp(-(((np.arange(height, dtype=np.float32) - centre[1]) / reach) ** 2))
    columns = np.exp(-(((np.arange(width, dtype=np.float32) - centre[0]) / reach) ** 2))
    glow = np.outer(rows, columns).astype(np.float32)  # H W
    light += 0.6 * glow[..., None] * np.array(item.colour, dtype=np.float32)


def _visible(canvas: Canvas, layout: Layout, rng: np.random.Generator) -> np.ndarray:
    emission = canvas.layers[..., EMISSION]
    picture = canvas.layers[..., ALBEDO] * _light(canvas, layout) + emission  # H W 3
    if layout.climate.night:
        picture += _bloom(emission)
    return _digitise(picture, 1.2, rng)


def _bloom(emission: np.ndarray) -> np.ndarray:
    """Halo of the lamps in the lens: a narrow and a wide one, from the bright parts only."""
    height, width = emission.shape[:2]
    bright = np.where(emission > 0.2, emission, 0)  # H W 3
    narrow = cv2.GaussianBlur(bright, (0, 0), width / 110)
    small = cv2.resize(bright, (width // 4 + 1, height // 4 + 1), interpolation=cv2.INTER_AREA)
    wide = cv2.resize(cv2.GaussianBlur(small, (0, 0), width / 90), (width, height))
    return 0.5 * narrow + 0.4 * wide


def _infrared(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Warmth as grey levels; thermal optics are a little softer than visible ones."""
    warmth = canvas.layers[..., WARMTH]
    soft = cv2.GaussianBlur(warmth, (0, 0), max(warmth.shape[1] / 640, 0.3))
    return _digitise(soft[..., None], 0.8, rng)  # H W 1


def _digitise(picture: np.ndarray, noise_level: float, rng: np.random.Generator) -> np.ndarray:
    """Read-out noise in 8-bit levels, then the 8-bit converter."""
    grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(noise_level)
    return np.clip(picture * 255 + grain + 0.5, 0, 255).astype(np.uint8)
