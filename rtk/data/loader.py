"""The views of every step of a run on one worker, made one step ahead of the training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rtk.config.schema import RunConfig
from rtk.data.decode.arrays import ImageArrays
from rtk.data.decode.stream import Stream
from rtk.data.image import BadImageError
from rtk.data.order import epoch_order, rank_batch, window_order
from rtk.data.views.maker import View, ViewMaker

T = TypeVar("T")


class Loader:
    """Views by step, of decoded arrays or of a stream.

    Args:
        config: of the run.
        make: `ViewMaker` of some images.
        train: decoded training set; unused with a stream.
        feed: a stream and the actor that feeds it; None: all of `train` is in memory.
        steps: global batches in an epoch, and in the run.
        rank: this worker and the number of workers.
        device: where the views are wanted.
    """

    def __init__(
        self,
        config: RunConfig,
        make: Callable[[ImageArrays], ViewMaker],
        train: ImageArrays,
        feed: tuple[Stream, Any] | None,
        steps: tuple[int, int],
        rank: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.config, self.make, self.train, self.feed = config, make, train, feed
        self.steps_per_epoch, self.total_steps = steps
        self.rank, self.device = rank, device
        self.asked: dict[tuple[int, int], Any] = {}
        self.window: tuple[tuple[int, int], ImageArrays] | None = None

    def __call__(self, step: int, names: Collection[str], redraw: int = 0) -> dict[str, View]:
        """The views called `names` of this worker's share of a step's batch, on its device."""
        epoch, position = divmod(step, self.steps_per_epoch)
        images, rows = self._share(epoch, position)
        views = self.make(images)(rows, epoch, names, redraw)
        return {name: view.to(self.device) for name, view in views.items()}

    def _share(self, epoch: int, position: int) -> tuple[ImageArrays, NDArray[np.int64]]:
        """Images in memory, and the rows of them that this worker takes."""
        seed, batch = self.config.seed, self.config.train.batch_size
        share = (*self.rank, self.config.train.accumulation)
        if self.feed is None:
            order = epoch_order(seed, epoch, len(self.train))
            return self.train, rank_batch(order, position, batch, *share)
        stream = self.feed[0]
        steps = stream.window // batch
        window = min(position // steps, stream.windows - 1)
        position -= window * steps
        images = self._streamed(epoch, window, steps)
        order = window_order(seed, epoch, window, len(images))
        return images, rank_batch(order, position, batch, *share)

    def _streamed(self, epoch: int, window: int, steps: int) -> ImageArrays:
        """A window of the stream; the next one is asked for at once, to be decoded meanwhile."""
        import ray

        assert self.feed is not None
        is_last = window + 1 == self.feed[0].windows or (window + 1) * steps >= self.steps_per_epoch
        key, following = (epoch, window), (epoch + 1, 0) if is_last else (epoch, window + 1)
        if self.window is not None and self.window[0] == key:
            return self.window[1]
        self.window = None  # before the wait, so that no more windows are mapped than are needed
        reference, error = ray.get(self.asked.get(key) or self._ask(key))
        if error is not None:
            raise BadImageError(error)
        images: ImageArrays = ray.get(reference)
        self.window = (key, images)
        first_step = following[0] * self.steps_per_epoch + following[1] * steps
        self.asked = {following: self._ask(following)} if first_step < self.total_steps else {}
        return images

    def _ask(self, key: tuple[int, int]) -> Any:
        assert self.feed is not None
        return self.feed[1].window.remote(*key)


def ahead(make: Callable[[int], T], steps: Iterable[int], threads: int) -> Iterator[T]:
    """`make(step)` for one step after the other, the next one made in a thread while one is in use.

    Args:
        make: what is called.
        steps: its arguments.
        threads: CPU threads that it computes with.
    """
    with ThreadPoolExecutor(1, "views", torch.set_num_threads, (threads,)) as pool:
        pending = None
        for step in steps:
            following = pool.submit(make, step)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
