"""Scenes: colour images of one solid in a room, drawn from six known factors.

The factors and the numbers of their values are those of 3D Shapes (Kim & Mnih 2018; Burgess & Kim 2018): the hues of
floor, wall and solid, the scale and the shape of the solid, and the angle from which the room is seen. The drawings
are this project's own, so scores must not be compared with scores on 3D Shapes.
"""

import colorsys
from itertools import product

import numpy as np
from numpy.typing import NDArray

from pipeline.data._raw import Factors, PixelFormat, Raw, consecutive
from pipeline.data._source import Source

SIZES = {"floor": 10, "wall": 10, "object": 10, "scale": 8, "shape": 4, "orientation": 15}
SHAPES = ("cube", "cylinder", "sphere", "capsule")
SEED = 2018
SPLITS = (20_000, 2_000, 2_000)  # training, validation, test: of 480,000 combinations
ROOM, CEILING = 3.0, 4.0  # half the side of the square room, and its height; a solid is at most 2 wide
CAMERA, TARGET, ZOOM = (1.7, 2.8), 0.75, 1.5  # height and distance of the camera, height of what it looks at
ANGLE = np.pi / 6  # the largest angle of the camera to either side
LIGHT = np.array([0.35, 0.85, 0.4]) / np.linalg.norm([0.35, 0.85, 0.4])
FINE = 2  # rays for each pixel along both axes
STEPS = 24  # of each ray towards the surface of a solid
Floats = NDArray[np.float32]


def load(size: int) -> Raw:
    """Draw 24,000 different scenes of `size` x `size` pixels. The label of a scene is the shape of the object in it."""
    chosen = np.random.default_rng(SEED).choice(int(np.prod(list(SIZES.values()))), sum(SPLITS), replace=False)
    values = np.stack(np.unravel_index(chosen, tuple(SIZES.values())), axis=1).astype(np.int64)
    name = "scenes" if size == 32 else f"scenes-{size}"
    return Raw(
        name=name, source=Source(place=name), x=draw(values, size), y=values[:, 4], class_names=SHAPES,
        likelihood="logistic8", why="the pixels are 8-bit values", splits=consecutive(SPLITS),
        pixels=PixelFormat(dtype="uint8", high=255.0, channel_axis="first"),
        factors=Factors(tuple(SIZES), values, ("shape",)),
        notes=("these images were drawn by this project from the factors of 3D Shapes (Burgess & Kim 2018)",),
    )  # fmt: skip


def draw(values: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Draw images (N, 3, size, size) of the factors (N, 6), whose columns are those of `SIZES`."""
    hues = np.array([colorsys.hsv_to_rgb(hue / 10, 0.75, 1.0) for hue in range(10)], np.float32)
    images = np.empty((len(values), 3, size, size), np.uint8)
    for scale, shape, orientation in product(*(range(SIZES[name]) for name in ("scale", "shape", "orientation"))):
        chosen = (values[:, 3:] == (scale, shape, orientation)).all(1).nonzero()[0]
        if len(chosen):
            light = _light(scale, shape, orientation, size)
            images[chosen] = (
                (255 * np.einsum("nmc,mhw->nchw", hues[values[chosen, :3]], light)).round().astype(np.uint8)
            )
    return images


def _light(scale: int, shape: int, orientation: int, size: int) -> Floats:
    """Return how much light comes from floor, walls and solid in each pixel, (3, size, size), from 0 to 1."""
    angle = ANGLE * (2 * orientation / (SIZES["orientation"] - 1) - 1)
    reach = 0.45 + 0.4 * scale / (SIZES["scale"] - 1)  # half the height of the solid
    origin = np.array([CAMERA[1] * np.sin(angle), CAMERA[0], CAMERA[1] * np.cos(angle)], np.float32)
    forward = _unit(np.array([0, TARGET, 0]) - origin)
    right = _unit(np.cross(forward, [0, 1, 0]))
    up = np.cross(right, forward)
    side = ((np.arange(size * FINE) + 0.5) / (size * FINE) * 2 - 1).astype(np.float32)
    rays = _unit(ZOOM * forward + side[None, :, None] * right - side[:, None, None] * up).astype(np.float32)

    # the room, seen from within: a ray ends at the first of its planes
    limits = np.where(rays > 0, [ROOM, CEILING, ROOM], [-ROOM, 0, -ROOM])
    with np.errstate(divide="ignore"):
        distances = np.where(rays != 0, (limits - origin) / rays, np.inf)
    plane, depth = distances.argmin(-1), distances.min(-1)
    is_floor = (plane == 1) & (rays[..., 1] < 0)
    spot = origin + depth[..., None] * rays
    shadow = 1 - 0.5 * np.exp(-3 * np.maximum(0, np.hypot(spot[..., 0], spot[..., 2]) - reach) / reach)
    brightness = np.where(is_floor, 0.9 * shadow, np.choose(plane, [0.65, 1.0, 0.8]))

    # the solid: follow the rays that pass near it, each time by the distance to its surface
    towards = np.array([0, reach, 0]) - origin
    closest, far = rays @ towards, 1.5 * reach
    is_near = towards @ towards - closest**2 < far**2
    ray, travelled = rays[is_near], (closest[is_near] - far).astype(np.float32)
    for _ in range(STEPS):
        travelled += _distance(origin + travelled[:, None] * ray, shape, reach)
    point = origin + travelled[:, None] * ray
    hits = (_distance(point, shape, reach) < 0.02) & (travelled < depth[is_near])
    is_solid = np.zeros(is_near.shape, np.bool_)
    is_solid[is_near] = hits
    moved = [
        _distance(point[hits] + step, shape, reach) - _distance(point[hits] - step, shape, reach)
        for step in 0.01 * np.eye(3, dtype=np.float32)
    ]
    brightness[is_solid] = 0.35 + 0.65 * np.maximum(0, _unit(np.stack(moved, -1)) @ LIGHT)

    of_material = np.stack([is_floor & ~is_solid, ~is_floor & ~is_solid, is_solid]) * brightness
    light: Floats = of_material.reshape(3, size, FINE, size, FINE).mean((2, 4)).astype(np.float32)
    return light


def _distance(point: Floats, shape: int, reach: float) -> Floats:
    """Return the distance from points (..., 3) to the surface of a solid that stands on the floor; negative inside."""
    x, y, z = (part / reach for part in np.moveaxis(point, -1, 0))
    y = y - 1
    around = np.hypot(x, z)
    if SHAPES[shape] == "sphere":
        distance = np.hypot(around, y) - 1
    elif SHAPES[shape] == "capsule":
        distance = np.hypot(around, np.maximum(abs(y) - 0.4, 0)) - 0.6
    else:
        sides = np.stack(
            [around - 0.8, abs(y) - 1] if SHAPES[shape] == "cylinder" else [abs(x) - 0.8, abs(y) - 0.8, abs(z) - 0.8]
        )
        distance = np.linalg.norm(np.maximum(sides, 0), axis=0) + np.minimum(sides.max(0), 0)
    result: Floats = (distance * reach).astype(np.float32)
    return result


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    unit: NDArray[np.floating] = vector / np.linalg.norm(vector, axis=-1, keepdims=True)
    return unit
