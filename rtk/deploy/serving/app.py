"""The HTTP interface of a packaged model: `POST /predict`, `GET /model`, `/status`, `/metrics`, `/health`."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rtk.data.image import BadImageError
from rtk.deploy.packaged_model import BATCH, PackagedModel, failed_row
from rtk.deploy.serving.access import is_admitted
from rtk.deploy.serving.batches import Batches, Row
from rtk.deploy.serving.requests import Limits, images_of, is_json
from rtk.deploy.serving.sample import Sample
from rtk.deploy.serving.watch import Watch

logger = logging.getLogger(__name__)
IN_HAND = 4 * BATCH  # images that are decoded at once and wait for the network: pixels are larger than files
OPEN = "/health"  # needs no token: what restarts a server has none


class Service:
    """A packaged model that answers requests.

    Args:
        model: on its device.
        limits: of what requests bring.
        sha256: of the token that they bring; None: they need none.
        threads: of the CPU, for the network and, as many besides, to decode images.
        sample: keeps some of the images; None: none is kept.
    """

    def __init__(
        self,
        model: PackagedModel,
        limits: Limits,
        sha256: str | None,
        threads: int,
        sample: Sample | None = None,
    ) -> None:
        self.model, self.limits, self.sha256, self.sample = model, limits, sha256, sample
        self.watch = Watch(model.origin, model.expected)
        self._batches = Batches(model.predict_pixels, BATCH, threads)
        self._decoders = ThreadPoolExecutor(threads, "decode")
        self._room = asyncio.Semaphore(IN_HAND)

    async def predict(self, request: Request) -> Response:
        """`POST /predict`: the row of an image (422 where it cannot be read), or `predictions` of several."""
        several = is_json(request)
        async with self.limits.body(request) as body:
            if several:
                images = await self._run(images_of, body)
                rows = await asyncio.gather(*map(self._row, images))
                return as_json({"predictions": rows})
            row = await self._row(body)
            return as_json(row, 422 if row["error"] else 200)

    async def _row(self, encoded: bytes) -> Row:
        """What `rtk predict` says of an image, counted; some are kept."""
        try:
            async with self._room:
                pixels: np.ndarray = await self._run(self.model.preprocessing, encoded)
                row = await self._batches.predict(pixels) | {"error": None}
            if self.sample is not None:
                await self._run(partial(self.sample.offer, row=row), encoded)
        except BadImageError as error:
            row = failed_row(error)
        self.watch.note(row)
        return row

    async def _run(self, function: Callable[[bytes], Any], argument: bytes) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, function, argument)

    async def describe(self) -> Response:
        """`GET /model`: what is served."""
        model, rule = self.model, self.model.rule
        scores = {"confidence": rule.confidence, "ood_score": rule.ood_score}
        thresholds = {"tau_id": rule.tau_id, "tau_ood": rule.tau_ood, "risk": rule.risk}
        said = {"promise": rule.promise(), "made_from": rule.made_from}
        return as_json({"origin": model.origin, "classes": model.classes, **scores, **thresholds, **said})

    async def status(self) -> Response:
        """`GET /status`: how many images got each decision, and whether that is as expected."""
        return as_json(self.watch.status())

    async def metrics(self) -> Response:
        """`GET /metrics`: for Prometheus."""
        return Response(self.watch.prometheus(), media_type=CONTENT_TYPE_LATEST)

    async def health(self) -> Response:
        """`GET /health`."""
        return as_json({"status": "ok"})

    async def answer(self, request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        """Around every request: its token, its time, and which model has answered it."""
        begin = time.perf_counter()
        path = request.scope["path"]  # `request.url` holds what the header Host says
        if path != OPEN and not is_admitted(request.headers.get("authorization"), self.sha256):
            response = refusal(401, "wanted the header Authorization: Bearer TOKEN, with the server's token")
        else:
            response = await self._answer(request, call)
        if path == "/predict":
            self.watch.note_request(time.perf_counter() - begin, response.status_code)
        origin = self.model.origin
        response.headers["rtk-model"] = quote(f"{origin['run']}@{origin['step']}", safe="@")
        return response

    async def _answer(self, request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            return await call(request)
        except Exception as error:  # of the model, or of rtk: the server goes on
            logger.exception("%s %s failed", request.method, request.url.path)
            return refusal(500, f"{type(error).__name__}: {error}")


def make_app(service: Service) -> FastAPI:
    """The application; it has no pages of documentation, which would load scripts of other servers."""
    app = FastAPI(title="rtk", openapi_url=None)
    app.add_api_route("/predict", service.predict, methods=["POST"])
    for path, action in (("/model", service.describe), ("/status", service.status)):
        app.add_api_route(path, action)
    for path, action in (("/metrics", service.metrics), (OPEN, service.health)):
        app.add_api_route(path, action)
    app.middleware("http")(service.answer)
    app.exception_handler(HTTPException)(_as_refusal)
    return app


async def _as_refusal(request: Request, error: HTTPException) -> Response:
    return refusal(error.status_code, error.detail, dict(error.headers or {}))


def refusal(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """A JSON object with `error`."""
    response = as_json({"error": reason}, status)
    response.headers.update(headers or {})
    return response


def as_json(content: Any, status: int = 200) -> Response:
    """JSON, in which numbers that it has no word for are null."""
    return Response(json.dumps(_finite(content), allow_nan=False), status, media_type="application/json")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
