"""What a request brings, within limits: one encoded image, or a JSON object of several."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

MIB = 2**20
MOST_IMAGES = 1024  # in one request
BODY_SECONDS = 60.0
HOW = (
    "send an encoded image as the body (curl --data-binary @photo.jpg), or "
    '{"images": [BASE64, ...]} as application/json'
)


def _decoded(text: object) -> bytes:
    """Bytes of base64; other characters are no part of it, as they are to pydantic's own `Base64Bytes`."""
    try:
        return base64.b64decode(text if isinstance(text, str) else b"!", validate=True)
    except ValueError:
        raise ValueError("wanted an encoded image in base64") from None


Encoded = Annotated[bytes, BeforeValidator(_decoded)]


class Images(BaseModel):
    """The body of a request for several images."""

    model_config = ConfigDict(extra="forbid")

    images: list[Encoded] = Field(min_length=1, max_length=MOST_IMAGES)


class Limits:
    """Bytes that one request may bring, and that all which are being answered may.

    Args:
        each: of a request.
        all_together: of all.
    """

    def __init__(self, each: int, all_together: int) -> None:
        self.each, self.all_together = each, all_together
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, which counts as held from its first piece until it is answered.

        Raises:
            HTTPException: 400 there is none; 408 it is too slow; 413 it is too large; 503 too much is held.
        """
        pieces: list[bytes] = []
        try:
            await self._read_in_time(request, pieces)
            body = b"".join(pieces)
            if not body:
                raise HTTPException(400, f"got an empty body; {HOW}")
            yield body
        finally:
            self._held -= sum(map(len, pieces))

    async def _read_in_time(self, request: Request, pieces: list[bytes]) -> None:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await self._read(request, pieces)
        except TimeoutError:
            raise HTTPException(408, f"the body took more than {BODY_SECONDS:g} s") from None
        except ClientDisconnect:  # nobody hears it, but it is counted, and is no failure of the server
            raise HTTPException(400, "the body broke off") from None

    async def _read(self, request: Request, pieces: list[bytes]) -> None:
        """Add the pieces of a body, and count them."""
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > self.each:
                raise HTTPException(413, f"got more than {self.each / MIB:g} MiB, the most of a request")
            if self._held + len(piece) > self.all_together:
                raise HTTPException(503, "busy: too many images are being answered", {"Retry-After": "1"})
            pieces.append(piece)
            self._held += len(piece)


def is_json(request: Request) -> bool:
    """Whether a request brings JSON; a form, as browsers and `curl -F` send it, is refused.

    Raises:
        HTTPException: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        raise HTTPException(415, f"got a form; {HOW}")
    return kind == "application/json"


def images_of(body: bytes) -> list[bytes]:
    """Encoded images of a JSON body.

    Raises:
        HTTPException: 400, naming what is wrong with it.
    """
    if body.count(b",") >= 2 * MOST_IMAGES:  # base64 has none; pydantic takes seconds and a GiB for millions
        raise HTTPException(
            400, f"body: got far more than {MOST_IMAGES} images, the most of a request; {HOW}"
        )
    try:
        return Images.model_validate_json(body).images
    except ValidationError as error:
        fault = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "body"
        said = fault["ctx"]["error"] if fault["type"] == "value_error" else fault["msg"]
        raise HTTPException(400, f"{place}: {said}; {HOW}") from None
