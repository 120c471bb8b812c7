"""Structurally complex, colourful pictures for PixMix, rendered here so that nothing has to be downloaded.

PixMix (Hendrycks et al., CVPR 2022) mixes images with fractals because these are rich in structure but far
from natural images. Two families take turns: Julia sets, which fill the frame with bands and filaments, and
random iterated-function systems, which are clouds of self-similar points (drawn by the chaos game of
Barnsley, "Fractals Everywhere", 1988; with contractions bounded as by Anderson and Farrell, "Improving
Fractal Pre-training", WACV 2022).
"""

import numpy as np
from numpy.typing import NDArray

from rtk.data.views.draws import uniforms

_DRAWS = 51
_OVERSAMPLING = 2  # Julia sets are rendered at twice the size and averaged, against jagged edges
_JULIA_STEPS = 64
_ESCAPE_RADIUS = 8.0  # beyond 2, so that the smoothed escape time has no visible steps
_WALKERS = 512
_BURN_IN = 16
_POINTS_PER_PIXEL = 8
_COVERED_AREA = 0.9  # sum of the areas of the images of the unit square


def render_fractals(count: int, size: int, seed: int) -> NDArray[np.uint8]:
    """Render fractals; picture i is a function of (seed, i, size) only, so a larger set starts with the
    smaller one.

    Args:
        count: number of pictures.
        size: side in pixels.
        seed: seed.

    Returns:
        `(count, 3, size, size)` uint8 RGB.

    Raises:
        ValueError: if `count` is negative or `size` is not positive.
    """
    if count < 0 or size < 1:
        raise ValueError(f"count, size: got {count}, {size}, wanted count >= 0 and size >= 1")
    pictures = np.empty((count, 3, size, size), np.uint8)
    for i, u in enumerate(uniforms(seed, 0, np.arange(count), "fractals", _DRAWS)):
        picture = _julia_picture(u, size) if i % 2 else _function_system_picture(u, size)
        pictures[i] = np.rint(255 * picture.clip(0, 1)).transpose(2, 0, 1)
    return pictures


def _julia_picture(u: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Julia set of `z^2 + c`, `(size, size, 3)`, coloured by escape time and by the smallest |z|."""
    window = _julia_window(u[2:6], size * _OVERSAMPLING)
    escape_time, closest = _julia_orbit(_julia_parameter(u[0], u[1]), window)
    phase = (1 + 3 * u[6]) * np.log1p(escape_time) + (0.5 + 2 * u[7]) * closest
    shade = 0.55 + 0.45 * np.cos(2 * np.pi * (1 + u[14]) * closest)
    colours = _palette(phase, u[8:14]) * shade[..., None]
    return colours.reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3).mean((1, 3))


def _julia_parameter(angle: float, distance: float) -> complex:
    """A parameter c near the cardioid of the Mandelbrot set, where Julia sets are most intricate."""
    turn = np.exp(2j * np.pi * angle)
    return (0.99 + 0.1 * distance) * (turn / 2 - turn**2 / 4)


def _julia_window(u: NDArray[np.float64], side: int) -> NDArray[np.complex64]:
    """Points `(side, side)` of a square window of random centre, extent and rotation in the complex plane."""
    axis = np.linspace(-1, 1, side)
    extent, turn = 0.35 + 0.9 * u[0], np.exp(2j * np.pi * u[1])
    centre = 0.6 * (2 * u[2] - 1) + 0.6j * (2 * u[3] - 1)
    return (centre + extent * turn * (axis + 1j * axis[:, None])).astype(np.complex64)


def _julia_orbit(c: complex, z: NDArray[np.complex64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Smoothed escape time and smallest |z| of the orbit of each point under `z^2 + c`."""
    time = np.full(z.shape, _JULIA_STEPS, np.float32).ravel()
    closest = np.full(z.size, _ESCAPE_RADIUS, np.float32)
    inside, point = np.arange(z.size), z.ravel()
    for step in range(_JULIA_STEPS):
        point = point * point + np.complex64(c)
        radius = np.abs(point)
        closest[inside] = np.minimum(closest[inside], radius)
        escaped = radius > _ESCAPE_RADIUS
        time[inside[escaped]] = step + 1 - np.log2(np.log(radius[escaped]) / np.log(_ESCAPE_RADIUS))
        inside, point = inside[~escaped], point[~escaped]
    return time.reshape(z.shape), closest.reshape(z.shape)


def _function_system_picture(u: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Attractor of 2 to 5 maps, `(size, size, 3)`, coloured by the last maps used, over a soft gradient."""
    maps = 2 + int(u[0] * 4)
    matrices, shifts = _contractions(u[1 : 1 + 6 * maps].reshape(maps, 6))
    seed = np.random.SeedSequence((u[32:36] * 2**32).astype(np.uint64).tolist())
    points, colours = _chaos_game(matrices, shifts, size, np.random.default_rng(seed))
    density, colour = _histogram(points, colours, size)
    light = np.log1p(density) / max(np.log1p(density).max(), 1.0)
    axis = np.linspace(-1, 1, size)
    gradient = u[36] + (0.6 * u[37] * axis + 0.6 * u[38] * axis[:, None])
    background = 0.6 * _palette(gradient, u[39:45])
    cover = (light**0.4)[..., None]
    return background * (1 - cover) + _palette(colour + 0.5 * light, u[45:51]) * cover


def _contractions(u: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Affine maps `(K, 2, 2)`, `(K, 2)` from `(K, 6)`: rotation, scaling along the axes, rotation, shift."""

    def rotation(angle: NDArray[np.float64]) -> NDArray[np.float64]:
        cos, sin = np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)
        return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)

    singular_values = 0.35 + 0.5 * u[:, 2:4]
    # Maps that cover too little area together leave dust, so they grow; 0.9 keeps them contractions.
    covered = singular_values.prod(1).sum()
    singular_values = np.minimum(singular_values * np.sqrt(max(1, _COVERED_AREA / covered)), 0.9)
    return rotation(u[:, 0]) * singular_values[:, None, :] @ rotation(u[:, 1]), 2 * u[:, 4:6] - 1


def _chaos_game(
    matrices: NDArray[np.float64], shifts: NDArray[np.float64], size: int, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points `(P, 2)` of the attractor and their colours `(P,)` in [0, 1], by many random walks at once."""
    steps = _BURN_IN + -(-_POINTS_PER_PIXEL * size * size // _WALKERS)
    # Larger maps are chosen more often, so that the points spread evenly.
    area = np.abs(np.linalg.det(matrices)) + 0.05
    choices = generator.choice(len(matrices), size=(steps, _WALKERS), p=area / area.sum())
    point, colour = np.zeros((_WALKERS, 2)), np.zeros(_WALKERS)
    points, colours = np.empty((steps, _WALKERS, 2)), np.empty((steps, _WALKERS))
    for step, choice in enumerate(choices):
        point = np.einsum("nij,nj->ni", matrices[choice], point) + shifts[choice]
        colour = (colour + choice / (len(matrices) - 1)) / 2
        points[step], colours[step] = point, colour
    return points[_BURN_IN:].reshape(-1, 2), colours[_BURN_IN:].ravel()


def _histogram(
    points: NDArray[np.float64], colours: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Number and mean colour of the points in each pixel, `(size, size)`, the frame fitted to the points."""
    low, high = np.quantile(points[:: max(1, len(points) // 4096)], [0.01, 0.99], axis=0)
    pixel = ((points - low) / np.maximum(high - low, 1e-6) * 0.9 + 0.05) * size
    visible = ((pixel >= 0) & (pixel < size)).all(1)
    index = pixel[visible].astype(np.int64) @ np.array([1, size])
    density = np.bincount(index, minlength=size * size).reshape(size, size).astype(np.float64)
    total = np.bincount(index, weights=colours[visible], minlength=size * size).reshape(size, size)
    return density, total / np.maximum(density, 1)


def _palette(phase: NDArray[np.floating], u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours `(..., 3)` of a phase `(...)`: a cosine of its own frequency and offset for each channel."""
    frequency, offset = 0.4 + 0.8 * u[:3], u[3:6]
    return 0.5 + 0.5 * np.cos(2 * np.pi * (phase[..., None] * frequency + offset))
