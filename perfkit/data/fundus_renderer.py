"""One synthetic colour fundus photograph from one key: the eye, its disease and the camera.

Lengths are in aperture radii, with the origin at the centre of the picture, x right and y down.
What depends on the picture's size (the sensor's noise) is drawn last, so that a key shows the same
eye at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import Generator
from PIL import Image, ImageDraw
from torch import Tensor

from perfkit.data.painting import Pixels, blurred, clouds, mix, rgb, smooth

Floats = npt.NDArray[np.float64]


class _Camera(NamedTuple):
    """What one make of camera does to every picture it takes."""

    cast: tuple[float, float, float]  # gain of red, green, blue
    vignette: float  # share of the light lost at the edge
    focus: float  # blur in aperture radii
    noise: float  # standard deviation in grey levels
    notch: bool  # the tab at the upper right that says which way is up


_CAMERAS = (
    _Camera((1.00, 0.97, 0.92), 0.30, 0.0035, 2.0, True),
    _Camera((1.00, 0.98, 0.86), 0.15, 0.0050, 1.5, True),
    _Camera((1.04, 0.93, 0.95), 0.35, 0.0040, 3.0, False),
    _Camera((0.98, 1.00, 1.10), 0.25, 0.0060, 2.5, False),
)


class _Eye(NamedTuple):
    """Where things are in one eye, and how much pigment it has."""

    temporal: float  # +1 where the macula lies right of the disc, -1 where left
    disc: tuple[float, float]
    radii: tuple[float, float]  # of the disc, across and down
    fovea: tuple[float, float]
    pigment: float  # 0 fair, 1 dark
    tessellation: float  # how far the choroid shows through


class _Frame(NamedTuple):
    """A square picture and the aperture's place in it."""

    size: int  # pixels
    centre: tuple[float, float]  # pixels
    radius: float  # pixels
    x: Pixels  # [1, size], in aperture radii
    y: Pixels  # [size, 1]


# A vein and its artery in turn: heading at the disc and at the end (degrees from the temporal
# side, upwards positive), length, half width.
_TRUNKS = (
    (100, -12, 1.75, 0.0165),  # upper temporal arcade
    (88, 2, 1.60, 0.0115),
    (-100, 12, 1.75, 0.0165),  # lower temporal arcade
    (-86, -2, 1.60, 0.0115),
    (118, 165, 0.95, 0.0100),  # upper nasal
    (100, 140, 0.85, 0.0075),
    (-118, -160, 0.95, 0.0100),  # lower nasal
    (-102, -138, 0.85, 0.0075),
    (20, -5, 0.45, 0.0040),  # towards the macula
    (-25, 8, 0.45, 0.0040),
)


def render_fundus(key: Sequence[int], *, cup_to_disc_ratio: float, size: int) -> Tensor:
    """Return a photograph of the eye that ``key`` names: uint8 [3, size, size], RGB.

    ``key`` (non-negative integers) decides everything but the cup, whose diameter is
    ``cup_to_disc_ratio`` (0..1) of the disc's. The bytes are the same in every process.
    """
    rng = np.random.default_rng(list(key))
    camera = _CAMERAS[rng.integers(len(_CAMERAS))]
    eye = _draw_eye(rng)
    frame = _aim(rng, size)

    image = _retina(rng, eye, frame)
    _paint_choroid(image, rng, eye, frame)
    _paint_disc(image, rng, eye, frame, cup_to_disc_ratio)
    _paint_vessels(image, rng, eye, frame, camera)
    _light(image, rng, eye, frame, camera)
    _paint_dust(image, rng, frame)
    image *= _aperture(frame, camera)
    image *= 255
    image += camera.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return torch.from_numpy(np.rint(image).clip(0, 255).astype(np.uint8))


def _draw_eye(rng: Generator) -> _Eye:
    temporal = 1.0 if rng.random() < 0.5 else -1.0
    disc_x = -temporal * rng.uniform(0.30, 0.66)
    disc_y = rng.uniform(-0.12, 0.10)
    radius = rng.uniform(0.165, 0.200)
    return _Eye(
        temporal=temporal,
        disc=(disc_x, disc_y),
        radii=(radius, radius * rng.uniform(1.02, 1.14)),
        fovea=(disc_x + temporal * rng.uniform(0.78, 0.88), disc_y + rng.uniform(0.02, 0.12)),
        pigment=rng.random(),
        tessellation=rng.random(),
    )


def _aim(rng: Generator, size: int) -> _Frame:
    centre = (size * rng.uniform(0.496, 0.504), size * rng.uniform(0.496, 0.504))
    radius = 0.488 * size
    pixel = np.arange(size, dtype=np.float32) + 0.5
    x, y = ((pixel - middle) / radius for middle in centre)
    return _Frame(size, centre, radius, x[None, :], y[:, None])


def _retina(rng: Generator, eye: _Eye, frame: _Frame) -> Pixels:
    """Return the bare background with its mottling and macula: [3, size, size] in 0..1."""
    fair = _colour(rng, (0.86, 0.44, 0.22), spread=0.04)
    dark = _colour(rng, (0.58, 0.20, 0.10), spread=0.03)
    mottling = sum(
        depth * clouds(rng, cells, frame.size)
        for cells, depth in ((6, 0.05), (22, 0.03), (70, 0.025))
    )
    image: Pixels = (fair + (dark - fair) * eye.pigment) * (1 + rgb(0.5, 1.0, 0.9) * mottling)
    # The nerve-fibre layer is thickest, and so brightest, around the disc.
    image *= 1 + rgb(0.10, 0.18, 0.12) * _bump(frame, eye.disc, 0.5)
    depth = rng.uniform(0.2, 0.36)
    image *= 1 - depth * rgb(0.7, 1.0, 0.9) * _bump(frame, eye.fovea, 0.27)
    image *= 1 - depth * rgb(0.4, 0.7, 0.6) * _bump(frame, eye.fovea, 0.09)
    return image


def _paint_choroid(image: Pixels, rng: Generator, eye: _Eye, frame: _Frame) -> None:
    """Let the choroid show through: orange streaks that fan out from the posterior pole."""
    count = 420
    pole = ((eye.disc[0] + eye.fovea[0]) / 2, eye.fovea[1])
    outward = rng.uniform(0, 2 * np.pi, count)
    distance = rng.uniform(0.35, 1.35, (count, 1))
    points = _walk(
        rng,
        origin=pole + distance * np.stack([np.cos(outward), np.sin(outward)], axis=1),
        headings=np.stack([outward, outward + rng.normal(0, 0.5, count)], axis=1),
        length=rng.uniform(0.2, 0.5, count),
        wobble=0.3,
        steps=10,
    )
    widths = rng.uniform(0.004, 0.013, (count, 1)) * np.linspace(1, 0.5, 10)
    streaks = _strokes(frame, points, widths, rng.uniform(0.3, 1, count), blur=0.012)
    away = smooth(((frame.x - pole[0]) ** 2 + (frame.y - pole[1]) ** 2 - 0.1) / 0.7)
    image *= 1 + eye.tessellation * rgb(0.20, 0.38, 0.20) * (streaks - 0.5) * away


def _paint_disc(image: Pixels, rng: Generator, eye: _Eye, frame: _Frame, ratio: float) -> None:
    """Paint the optic disc: a pale crescent beside it, its rim, and the cup inside."""
    # Lengths from here on are in disc radii.
    x = (frame.x - eye.disc[0]) / eye.radii[0]
    y = (frame.y - eye.disc[1]) / eye.radii[1]
    pixel = 1 / (frame.radius * eye.radii[0])

    crescent = np.sqrt((x - eye.temporal * rng.uniform(0.05, 0.2)) ** 2 + y**2)
    cover = rng.uniform(0.1, 0.5) * _disk(crescent, rng.uniform(1.0, 1.15), 0.25 + pixel)
    mix(image, rgb(0.84, 0.56, 0.33), cover)

    # The temporal side of the rim is the paler one.
    rim = _colour(rng, (0.90, 0.55, 0.31), spread=0.03)
    rim = rim + eye.temporal * rgb(0.04, 0.08, 0.07) * x.clip(-1, 1)
    rim = rim * (1 + rgb(0.025, 0.05, 0.05) * clouds(rng, 30, frame.size))
    cover = rng.uniform(0.8, 0.95) * _disk(np.sqrt(x**2 + y**2), 1, 0.22 + pixel)
    mix(image, rim, cover)

    # The cup leans to the temporal side and still lies within its disc.
    lean = (1 - ratio) * eye.temporal * rng.uniform(0.0, 0.4)
    drop = (1 - ratio) * rng.uniform(-0.2, 0.2)
    cup = np.sqrt((x - lean) ** 2 + (y - drop) ** 2)
    cover = rng.uniform(0.85, 1.0) * _disk(cup, ratio, 0.2 + pixel)
    mix(image, _colour(rng, (0.99, 0.80, 0.55), spread=0.02), cover)


def _paint_vessels(
    image: Pixels, rng: Generator, eye: _Eye, frame: _Frame, camera: _Camera
) -> None:
    blood = np.zeros((frame.size, frame.size), np.float32)
    for points, widths in _grow_vessels(rng, eye):
        tones = np.minimum(1, 0.4 + widths[:, 0] / 0.02)
        strokes = _strokes(frame, points, widths, tones, blur=camera.focus)
        blood = np.maximum(blood, strokes)
    image *= 1 - rng.uniform(0.65, 1.0) * rgb(0.30, 0.60, 0.50) * blood


def _grow_vessels(rng: Generator, eye: _Eye) -> list[tuple[Floats, Floats]]:
    """Return paths [n, steps, 2] and half widths [n, steps] of trunks, branches and twigs."""
    count = len(_TRUNKS)
    trunks = np.array(_TRUNKS)
    headings = np.radians(trunks[:, :2] + rng.normal(0, 11, (count, 2)))
    length = trunks[:, 2] * rng.uniform(0.85, 1.1, count)
    width = trunks[:, 3] * rng.uniform(0.8, 1.15, count)
    # Vessels enter on the nasal side of the disc, not quite at one point.
    hilum = np.array([-0.28 * eye.temporal, 0]) + rng.normal(0, 0.06, 2)
    origin = np.array(eye.disc) + eye.radii * (hilum + rng.normal(0, 0.07, (count, 2)))

    generations: list[tuple[Floats, Floats]] = []
    for steps, wobble, children in ((32, 0.13, 4), (20, 0.24, 3), (12, 0.30, 0)):
        points = _walk(
            rng, origin=origin, headings=headings, length=length, wobble=wobble, steps=steps
        )
        points[..., 0] = origin[:, :1] + eye.temporal * (points[..., 0] - origin[:, :1])
        widths = width[:, None] * np.linspace(1, 0.2, steps)
        generations.append((points, widths))

        parent = np.repeat(np.arange(len(points)), children)
        at = rng.uniform(0.12, 0.9, len(parent))
        node = (at * (steps - 2)).astype(int)
        origin = points[parent, node]
        ahead = points[parent, node + 1] - origin
        onward = np.arctan2(-ahead[:, 1], eye.temporal * ahead[:, 0])
        side = np.where(np.arange(len(parent)) % 2, 1, -1)
        fork = side * np.radians(rng.uniform(30, 65, len(parent)))
        headings = onward[:, None] + fork[:, None] * [1, 0.5]
        length = length[parent] * (1 - 0.6 * at) * rng.uniform(0.3, 0.65, len(parent))
        width = widths[parent, node] * rng.uniform(0.45, 0.7, len(parent))
    return generations


def _light(image: Pixels, rng: Generator, eye: _Eye, frame: _Frame, camera: _Camera) -> None:
    """Light the eye: exposure, vignette, shadows away from the disc, stray light at the edge."""
    from_centre = frame.x**2 + frame.y**2
    shadow = rng.uniform(0, 0.8) * smooth(0.35 + 0.28 * clouds(rng, 3, frame.size))
    shadow = shadow * (1 - _bump(frame, eye.disc, 0.5))
    exposure = rng.uniform(0.75, 1.05) * (1 - camera.vignette * from_centre) * (1 - shadow)
    image *= rgb(*camera.cast) * exposure

    lean = 1 + rng.uniform(-0.8, 0.8) * frame.x + rng.uniform(-0.8, 0.8) * frame.y
    stray = smooth((from_centre - rng.uniform(0.3, 0.6)) * lean)
    mix(image, _colour(rng, (0.80, 0.66, 0.42), spread=0.12), 0.75 * rng.random() ** 2 * stray)
    image += 0.04 * rng.random()


def _paint_dust(image: Pixels, rng: Generator, frame: _Frame) -> None:
    """Add the pale spots that dust on the lens leaves."""
    canvas = Image.new("L", (frame.size, frame.size))
    draw = ImageDraw.Draw(canvas)
    for x, y, width, tone in rng.random((rng.integers(9), 4)).tolist():
        middle_x = frame.centre[0] + (2 * x - 1) * frame.radius
        middle_y = frame.centre[1] + (2 * y - 1) * frame.radius
        reach = (0.008 + 0.02 * width) * frame.radius
        box = (middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach)
        draw.ellipse(box, fill=int(30 + 60 * tone))
    mix(image, rgb(0.85, 0.75, 0.62), blurred(canvas, 0.007 * frame.radius))


def _aperture(frame: _Frame, camera: _Camera) -> Pixels:
    """Return how much light each pixel gets, 0..1: [size, size]."""
    pixel = 1 / frame.radius
    inside = _disk(np.sqrt(frame.x**2 + frame.y**2), 1, 0.008 + pixel)
    if camera.notch:
        along = (frame.x - frame.y) * 0.5**0.5  # towards the upper right
        across = (frame.x + frame.y) * 0.5**0.5
        tab = _disk(along, 1.07, 2 * pixel) * _disk(np.abs(across), 0.045, 2 * pixel)
        inside = np.maximum(inside, tab * (along > 0))
    return inside


def _walk(
    rng: Generator, *, origin: Floats, headings: Floats, length: Floats, wobble: float, steps: int
) -> Floats:
    """Return paths [n, steps, 2] from ``origin`` that turn from the first heading to the second.

    ``headings`` [n, 2] are in radians, counter-clockwise on the screen; ``wobble`` too.
    """
    count = len(origin)
    along = np.linspace(0, 1, steps)
    waves = rng.uniform(4, 18, (count, 3, 1)) * length[:, None, None]
    phases = rng.uniform(0, 2 * np.pi, (count, 3, 1))
    sway = wobble * np.sin(waves * along + phases).sum(axis=1) * np.minimum(1, 4 * along)
    # Most of the turn is made early, as the arcades do.
    turn = (headings[:, :1] - headings[:, 1:]) * (1 - along) ** 2.6
    heading = headings[:, 1:] + turn + sway
    stride = (length / steps)[:, None, None]
    moves: Floats = stride * np.stack([np.cos(heading), -np.sin(heading)], axis=2)
    return origin[:, None] + np.cumsum(moves, axis=1) - moves[:, :1]


def _strokes(
    frame: _Frame, points: Floats, widths: Floats, tones: Floats, *, blur: float
) -> Pixels:
    """Return tapering strokes as coverage 0..1: [size, size].

    ``points`` [n, steps, 2], half ``widths`` [n, steps], ``tones`` [n] in 0..1.
    """
    # Drawn large and reduced: strokes thinner than a pixel then fade instead of breaking up.
    scale = max(2, -(-600 // frame.size))
    canvas = Image.new("L", (frame.size * scale, frame.size * scale))
    draw = ImageDraw.Draw(canvas)
    ahead = np.gradient(points, axis=1)
    aside = ahead[..., ::-1] * (-1, 1) / np.linalg.norm(ahead, axis=2, keepdims=True)
    aside *= widths[..., None]
    outlines = np.concatenate([points + aside, (points - aside)[:, ::-1]], axis=1)
    outlines = (outlines * frame.radius + frame.centre) * scale
    for outline, tone in zip(outlines.reshape(len(points), -1).tolist(), tones, strict=True):
        draw.polygon(outline, fill=int(255 * tone))
    return blurred(canvas.reduce(scale), blur * frame.radius)


def _colour(rng: Generator, mean: tuple[float, float, float], *, spread: float) -> Pixels:
    return rgb(*(mean + rng.uniform(-spread, spread, 3)))


def _disk(distance: Pixels, radius: float, softness: float) -> Pixels:
    """Return coverage that falls from 1 to 0 over ``softness`` around ``radius``."""
    return smooth((radius - distance) / softness + 0.5)


def _bump(frame: _Frame, centre: tuple[float, float], radius: float) -> Pixels:
    """Return a hill of height 1 at ``centre`` that is 1/4 high at ``radius``."""
    squared = (frame.x - centre[0]) ** 2 + (frame.y - centre[1]) ** 2
    return 1 / (1 + squared / radius**2) ** 2
