"""The pool that decodes images, with a door in front of it."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

from tta_server.api.codec import Pixels, Transform, Upload, decode_all
from tta_server.api.constant import refuse_constant
from tta_server.runtime.engine import Engine
from tta_server.settings import LimitsSettings
from tta_server.telemetry.metrics import Metrics


class Decoding:
    """Decode what will find room in the queue; the event loop alone may call it."""

    def __init__(
        self, transform: Transform, limits: LimitsSettings, pool: Executor, engine: Engine, metrics: Metrics
    ) -> None:
        """Take the pool.

        Args:
            transform: From an image to what the model takes.
            limits: What an image may be.
            pool: Where images are decoded.
            engine: Knows how much waits already.
            metrics: Where the time is recorded.
        """
        self._transform = transform
        self._limits = limits
        self._pool = pool
        self._engine = engine
        self._metrics = metrics
        self._images = 0

    async def decode(self, uploads: Sequence[Upload]) -> Pixels:
        """Decode images off the event loop.

        Images that are being decoded count as queued: else requests that cannot be answered would pile up in front of
        the pool, with their bodies, before anybody refused them.

        Raises:
            Overloaded: If the queue has no room for them.
            TTAError: If one is no good image.
        """
        self._engine.expect_room(self._images + len(uploads))
        self._images += len(uploads)
        try:
            with self._metrics.timed("decode"):
                return await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, uploads)
        finally:
            self._images -= len(uploads)

    def _decode(self, uploads: Sequence[Upload]) -> Pixels:
        images = decode_all(uploads, self._transform, self._limits.max_pixels)
        if self._limits.refuse_constant:
            refuse_constant(images, [upload.name for upload in uploads])
        return images
