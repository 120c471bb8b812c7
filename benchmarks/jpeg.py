"""Time to decode a large JPEG to the size of a network's input: all of it, or reduced (`data.jpeg`).

    python benchmarks/jpeg.py [--side 224] [--rounds 10]

The pictures are scikit-learn's two sample photographs, enlarged to those of a camera with 12 megapixels, with
noise as of its sensor, at quality 92. What differs is in grey levels. The last line is how many times as fast
the reduced decoding is.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from io import BytesIO

import numpy as np
import PIL
from PIL import Image
from sklearn.datasets import load_sample_images

from rtk.data.image import decode_rgb
from rtk.runtime.freed_memory import keep_freed_memory

SIZE = (4032, 3024)
NOISE, QUALITY = 4.0, 92


def camera_pictures() -> list[bytes]:
    """JPEG files of 12 megapixels."""
    generator, files = np.random.default_rng(0), []
    for pixels in load_sample_images().images:
        enlarged = Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC)
        noisy = np.asarray(enlarged) + generator.normal(0, NOISE, (SIZE[1], SIZE[0], 1))
        buffer = BytesIO()
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    return files


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=224, help="pixels (default: 224)")
    parser.add_argument("--rounds", type=int, default=10, help="of both ways in turns (default: 10)")
    options = parser.parse_args()
    keep_freed_memory()  # as in the processes that decode
    pictures = camera_pictures()
    seconds: dict[str, list[float]] = {"full": [], "reduced": []}
    for _ in range(options.rounds):
        for jpeg, taken in seconds.items():
            started = time.process_time()
            for data in pictures:
                decode_rgb(data, options.side, jpeg=jpeg)
            taken.append((time.process_time() - started) / len(pictures))
    print(f"Pillow {PIL.__version__}, {platform.machine()}, {SIZE[0]} x {SIZE[1]} to {options.side} pixels")
    median = {jpeg: statistics.median(taken) for jpeg, taken in seconds.items()}
    for jpeg, taken in median.items():
        print(f"{jpeg:<8} {1000 * taken:7.1f} ms of a processor")
    full, reduced = (
        np.stack([decode_rgb(data, options.side, jpeg=jpeg).astype(int) for data in pictures])
        for jpeg in seconds
    )
    difference = np.abs(full - reduced)
    print(f"they differ by {difference.mean():.2f} grey levels on average, {difference.max()} at most")
    print(f"ratio {median['full'] / median['reduced']:.2f}")


if __name__ == "__main__":
    main()
