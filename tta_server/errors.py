"""What can go wrong with a request, each with its HTTP status and a stable code."""

from typing import ClassVar


class TTAError(Exception):
    """An error whose message is for the caller: what was wrong, what was got, what would be right."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


class NotFinite(TTAError):
    """What the model says of a request is not a number."""


class BadRequest(TTAError):
    """The request cannot be answered as it stands."""

    status = 400
    code = "bad_request"


class ConstantImage(BadRequest):
    """An image is of one colour: there is nothing in it to see or to learn from."""

    code = "constant_image"


class Unauthorized(TTAError):
    """The request says not who asks, or not truly."""

    status = 401
    code = "unauthorized"


class Forbidden(TTAError):
    """Who asks may not."""

    status = 403
    code = "forbidden"


class NotFound(TTAError):
    """The request names a model or stream that is not there."""

    status = 404
    code = "not_found"


class TooSlow(TTAError):
    """The request took longer to arrive than this server waits."""

    status = 408
    code = "too_slow"


class Conflict(TTAError):
    """The request does not fit what is there."""

    status = 409
    code = "conflict"


class TooLarge(TTAError):
    """The request is larger than this server takes."""

    status = 413
    code = "too_large"


class UnsupportedMedia(TTAError):
    """The bytes are no image that this server can read."""

    status = 415
    code = "bad_image"


class Overloaded(TTAError):
    """The server has more work than it may queue."""

    status = 429
    code = "queue_full"

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        """Say how long to wait.

        Args:
            message: For the caller.
            retry_after_s: Seconds until another try makes sense, >= 1.
        """
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """Whoever asks has asked for more than his key allows."""

    code = "rate_limited"


class StreamsFull(Overloaded):
    """A stream is new, and there are as many as there may be."""

    code = "streams_full"

    def __init__(self, stream: str, count: int) -> None:
        """Say which stream it is, and how many there are."""
        super().__init__(
            f"stream '{stream}' is new and this server holds its {count} streams already (streams.max_streams), and "
            "none gives way: use those, delete some, or ask again",
            retry_after_s=10,  # one that is not asked for meanwhile may give way
        )


class ClientGone(TTAError):
    """The caller hung up; nobody reads the answer."""

    status = 499  # nginx's; HTTP has none
    code = "client_gone"


class Unsupported(TTAError):
    """The request is right, but this server does not do that."""

    status = 501
    code = "unsupported"


class SetAside(TTAError):
    """A stream cannot go on: what its file holds is of no use, or something about it failed; others are not concerned.

    Asked again it says the same, here and at another server: so this is no 503, which balancers and clients repeat.
    """

    status = 500
    code = "set_aside"

    def __init__(self, stream: str, trouble: str) -> None:
        """Say which stream it is, and why."""
        super().__init__(
            f"stream '{stream}' is set aside: {trouble}; its file is kept: if a newer server wrote it, start "
            "that one again; else restart the server to try again, or delete the stream"
        )


class Moved(TTAError):
    """A stream is another server's now."""

    status = 503
    code = "moved"

    def __init__(self, stream: str) -> None:
        """Say which stream it is."""
        self.stream = stream
        super().__init__(f"stream '{stream}' is moving to another server; ask again")


class NotReady(TTAError):
    """The server is starting, stopping or damaged, or its storage cannot be read now."""

    status = 503
    code = "not_ready"
