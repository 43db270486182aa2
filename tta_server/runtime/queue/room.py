"""Room for requests: counted in images and in bytes, from before anything is decoded until the request is done."""

import threading
from collections.abc import Callable
from types import TracebackType

from tta_server.errors import Overloaded


class Room:
    """How much the server takes on. Any thread may call it.

    Images count here until they are queued, where the queue counts them; bytes count until the request is done.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        """Start empty.

        Args:
            max_images: Most images being decoded or queued.
            max_bytes: Most bytes of decoded images on their way, to the device and back.
        """
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.images = 0
        self.bytes = 0

    def expect(self, images: int, decoded_bytes: int, queued: int, retry_after_s: Callable[[], int]) -> None:
        """Do nothing if a request would find room.

        Args:
            images: How many it has.
            decoded_bytes: What they take once they are decoded.
            queued: How many images wait in the queue.
            retry_after_s: Says when another try makes sense.

        Raises:
            Overloaded: If it would not; it names the limit.
        """
        waiting = self.images + queued
        if waiting + images > self._max_images:
            raise Overloaded(
                f"{waiting} images are waiting and this server queues at most {self._max_images} "
                "(engine.max_queue_rows); try again later",
                retry_after_s(),
            )
        if self.bytes + decoded_bytes > self._max_bytes:
            raise Overloaded(
                f"images of {self.bytes} bytes are on their way and this server holds at most {self._max_bytes} "
                "(limits.max_decoded_bytes); try again later",
                retry_after_s(),
            )

    def reserve(self, images: int, decoded_bytes: int, queued: int, retry_after_s: Callable[[], int]) -> "Reservation":
        """Keep room for a request; arguments and errors are those of `expect`."""
        with self._lock:
            self.expect(images, decoded_bytes, queued, retry_after_s)
            self.images += images
            self.bytes += decoded_bytes
        return Reservation(self, images, decoded_bytes)

    @property
    def is_occupied(self) -> bool:
        """Whether a request has room."""
        return self.images > 0 or self.bytes > 0

    def give_back(self, images: int, decoded_bytes: int) -> None:
        """Count so much less."""
        with self._lock:
            self.images -= images
            self.bytes -= decoded_bytes


class Reservation:
    """The room of one request; leaving the block gives it back."""

    def __init__(self, room: Room, images: int, decoded_bytes: int) -> None:
        """Hold what `room` has counted."""
        self._room = room
        self._images = images
        self._bytes = decoded_bytes

    def queued(self) -> None:
        """Hand the images over to the queue, which counts them from now on."""
        images, self._images = self._images, 0
        self._room.give_back(images, 0)

    def release(self) -> None:
        """Give back what is still held; more than once changes nothing."""
        images, held, self._images, self._bytes = self._images, self._bytes, 0, 0
        self._room.give_back(images, held)

    def __enter__(self) -> "Reservation":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
