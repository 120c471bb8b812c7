"""Batches: what gathers while one is computed, errors of one image alone, and askers who have gone."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from rtk.deploy.serving.batches import Batches


def image(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


class Network:
    """Says of every image which it is; waits, in its first batch, until it is told to go on."""

    def __init__(self, bad: int = -1) -> None:
        self.sizes: list[int] = []
        self.bad = bad
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, pixels: np.ndarray) -> list[dict[str, int]]:
        self.sizes.append(len(pixels))
        if len(self.sizes) == 1:
            self.begun.set()
            assert self.go.wait(60)
        numbers = pixels[:, 0, 0, 0].tolist()
        if self.bad in numbers:
            raise ValueError(f"image {self.bad}")
        return [{"number": number} for number in numbers]


async def ask(network: Network, most: int, count: int) -> tuple[list[asyncio.Task], Batches]:
    """One image is being computed, the others wait."""
    batches = Batches(network, most, 1)
    first = asyncio.create_task(batches.predict(image(0)))
    while not network.begun.is_set():
        await asyncio.sleep(0.001)
    tasks = [first, *(asyncio.create_task(batches.predict(image(n))) for n in range(1, count))]
    await asyncio.sleep(0.01)
    return tasks, batches


def test_a_batch_is_what_came_while_the_one_before_was_computed():
    network = Network()

    async def run():
        tasks, batches = await ask(network, 4, 8)
        network.go.set()
        rows = await asyncio.gather(*tasks)
        assert [row["number"] for row in rows] == list(range(8))
        assert (await batches.predict(image(9)))["number"] == 9  # after it had nothing to do

    asyncio.run(run())
    assert network.sizes == [1, 4, 3, 1]


def test_an_image_that_fails_takes_no_others_with_it():
    network = Network(bad=2)

    async def run():
        tasks, _ = await ask(network, 8, 4)
        network.go.set()
        rows = await asyncio.gather(*tasks, return_exceptions=True)
        assert [row["number"] for row in (rows[0], rows[1], rows[3])] == [0, 1, 3]
        with pytest.raises(ValueError, match="image 2"):
            raise rows[2]

    asyncio.run(run())


def test_what_nobody_waits_for_is_not_computed():
    network = Network()

    async def run():
        tasks, _ = await ask(network, 8, 4)
        tasks[1].cancel()
        tasks[0].cancel()  # while it is computed
        network.go.set()
        rows = await asyncio.gather(*tasks[2:])
        assert [row["number"] for row in rows] == [2, 3]

    asyncio.run(run())
    assert network.sizes == [1, 2]
