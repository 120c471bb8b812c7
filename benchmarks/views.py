"""Images/s a core of the clean and the PixMix view, beside a plain Pillow implementation of the same views.

    python benchmarks/views.py [--rounds 7]

Both sides start from decoded pictures and end in float tensors in [0, 1]: a crop and flip at 32x32, a random
resized crop and flip at 224x224, and PixMix with the same mixing pictures. Pillow's side works image by
image, as the published PixMix does, and draws from NumPy's generator; rtk's is `ViewMaker`.
One thread each, in turns, timed in processor seconds, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rtk.config.load import build_config
from rtk.data.decode.arrays import ImageArrays
from rtk.data.views.fractals import render_fractals
from rtk.data.views.maker import ViewMaker
from rtk.objectives import view_makers
from rtk.runtime.freed_memory import keep_freed_memory

CASES = {32: 512, 224: 32}  # side: images a batch
PICTURES = 32


class PillowViews:
    """Both views of one image after the other."""

    def __init__(self, images: np.ndarray, pictures: np.ndarray, side: int) -> None:
        self.images = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
        self.pictures = [Image.fromarray(picture.transpose(1, 2, 0)) for picture in pictures]
        self.side, self.draw = side, np.random.default_rng(0)

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Clean and PixMix views (n, 3, side, side)."""
        cropped = [self._crop(self.images[row]) for row in rows]
        return torch.stack([to_tensor(image) for image in cropped]), torch.stack(
            [self.pixmix(image) for image in cropped]
        )

    def _crop(self, image: Image.Image) -> Image.Image:
        if self.side == 32:
            left, top = self.draw.integers(0, 9, 2)
            image = ImageOps.expand(image, 4).crop((left, top, left + 32, top + 32))
        else:
            image = self._resized_crop(image)
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.draw.random() < 0.5 else image

    def _resized_crop(self, image: Image.Image) -> Image.Image:
        while True:
            area = image.width * image.height * self.draw.uniform(0.08, 1)
            aspect = np.exp(self.draw.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if width <= image.width and height <= image.height:
                break
        left = self.draw.integers(0, image.width - width + 1)
        top = self.draw.integers(0, image.height - height + 1)
        box = (left, top, left + width, top + height)
        return image.resize((self.side, self.side), Image.Resampling.BILINEAR, box=box)

    def pixmix(self, image: Image.Image) -> Tensor:
        """PixMix of a cropped image (3, side, side)."""
        picture = self.pictures[self.draw.integers(len(self.pictures))]
        left, top = (self.draw.integers(0, picture.width - self.side + 1) for _ in range(2))
        picture = picture.crop((left, top, left + self.side, top + self.side))
        mixed = to_tensor(self._augment(image) if self.draw.random() < 0.5 else image)
        for _ in range(self.draw.integers(5)):
            partner = to_tensor(self._augment(image) if self.draw.random() < 0.5 else picture)
            mixed = self._mix(mixed, partner).clip(0, 1)
        return mixed

    def _mix(self, one: Tensor, other: Tensor) -> Tensor:
        if self.draw.random() < 0.5:
            a, b = self.draw.beta(3, 1), self.draw.beta(1, 3)
        else:
            a, b = 1 + self.draw.beta(1, 3), -self.draw.beta(1, 3)
        if self.draw.random() < 0.5:
            return (a * (one * 2 - 1) + b * (other * 2 - 1) + 1) / 2
        return (one * 2) ** a * (other * 2).clip(1e-37) ** b / 2

    def _augment(self, image: Image.Image) -> Image.Image:
        level, sign = self.draw.uniform(0.1, 3), self.draw.choice([-1, 1])

        def affine(*coefficients: float) -> Image.Image:
            return image.transform(
                image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
            )

        shear, shift = sign * level * 0.03, sign * int(level * self.side / 30)
        operations: list[Callable[[], Image.Image]] = [
            lambda: ImageOps.autocontrast(image),
            lambda: ImageOps.equalize(image),
            lambda: ImageOps.posterize(image, 4 - int(level * 0.4)),
            lambda: image.rotate(sign * int(level * 3), Image.Resampling.BILINEAR),
            lambda: ImageOps.solarize(image, 256 - int(level * 25.6)),
            lambda: affine(1, shear, 0, 0, 1, 0),
            lambda: affine(1, 0, 0, shear, 1, 0),
            lambda: affine(1, 0, shift, 0, 1, 0),
            lambda: affine(1, 0, 0, 0, 1, shift),
        ]
        return operations[self.draw.integers(len(operations))]()


def to_tensor(image: Image.Image) -> Tensor:
    """Image as float (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)


def sides(side: int) -> tuple[ViewMaker, PillowViews]:
    """Both makers of views, on the same pictures: smooth in large, noisy in small, as photographs are."""
    generator = np.random.default_rng(0)
    source = side if side == 32 else 256
    images = render_fractals(64, source, 1).astype(np.int16) // 2 + 64
    images = (images + generator.integers(-16, 17, images.shape)).clip(0, 255).astype(np.uint8)
    pictures = render_fractals(PICTURES, side * 9 // 8, 0)
    crop = "pad" if side == 32 else "resized"
    config = build_config(
        {
            "data": {"train": "fractals", "image_size": side, "augment": {"crop": crop}},
            "objective": {"regpixmix": {"weight": 1.0}},
        }
    )
    train = ImageArrays(images, np.zeros(len(images), np.int64), np.arange(len(images)))
    maker = ViewMaker(train, pictures, 10, config.data, view_makers(config.objective), seed=0)
    return maker, PillowViews(images, pictures, side)


def measure(side: int, batch: int, rounds: int) -> tuple[list[float], list[float]]:
    """Processor seconds an image of rtk and of Pillow, in turns; the first round warms up."""
    maker, pillow = sides(side)
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        rows = (np.arange(batch) + number * batch) % len(pillow.images)
        for index, work in enumerate((lambda r, n: maker(r, n, {"clean", "pixmix"}), lambda r, n: pillow(r))):
            started = time.process_time()
            work(rows, number)
            seconds[index].append((time.process_time() - started) / batch)
    return seconds[0][1:], seconds[1][1:]


def main() -> None:
    """Print images/s a core of both and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()  # as in a worker; it serves both sides
    print(f"torch {torch.__version__}, Pillow {PIL.__version__}, one thread, clean + PixMix, images/s a core")
    for side, batch in CASES.items():
        ours, theirs = measure(side, batch, rounds)
        ratios = [theirs / ours for ours, theirs in zip(ours, theirs, strict=True)]
        speeds = [1 / statistics.median(values) for values in (ours, theirs)]
        print(
            f"{side}x{side}: rtk {speeds[0]:.0f}, Pillow {speeds[1]:.0f}, "
            f"ratio {statistics.median(ratios):.2f} (rounds: {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
