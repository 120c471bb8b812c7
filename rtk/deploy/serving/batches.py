"""Images that come one by one, predicted together: while a batch is computed, the next one gathers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import torch

Row = dict[str, Any]
Waiting = tuple[np.ndarray, "asyncio.Future[Row]"]


class Batches:
    """A queue in front of a network that runs in one thread, with all of torch's threads to itself.

    No image waits for others to come: a batch is what has come while the one before was computed.

    Args:
        predict: rows of images uint8 (N, H, W, 3).
        most: images in a batch.
        threads: of the CPU, for the network.
    """

    def __init__(self, predict: Callable[[np.ndarray], list[Row]], most: int, threads: int) -> None:
        self._predict, self._most = predict, most
        self._waiting: deque[Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "network", torch.set_num_threads, (threads,))
        self._worker: asyncio.Task[None] | None = None

    async def predict(self, pixels: np.ndarray) -> Row:
        """The row of an image uint8 (H, W, 3).

        Raises:
            Exception: what `predict` raises of this image.
        """
        answer: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, answer))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await answer

    async def _work(self) -> None:
        """Predict what waits, until nothing does."""
        while self._waiting:
            count = min(self._most, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            await self._answer([one for one in batch if not one[1].cancelled()])  # who asked may have gone

    async def _answer(self, batch: list[Waiting]) -> None:
        """Give every image of a batch its row, or its error: one that fails takes no others with it."""
        if not batch:
            return
        pixels = np.stack([image for image, _ in batch])
        try:
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, self._predict, pixels)
        except Exception as error:
            if len(batch) > 1:
                for one in batch:
                    await self._answer([one])
            else:
                _settle(batch[0][1], error)
            return
        for (_, answer), row in zip(batch, rows, strict=True):
            _settle(answer, row)


def _settle(answer: asyncio.Future[Row], outcome: Row | Exception) -> None:
    with suppress(asyncio.InvalidStateError):  # who asked has gone
        answer.set_exception(outcome) if isinstance(outcome, Exception) else answer.set_result(outcome)
