"""The images of one stream that wait to be learnt from, and which images are let in."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""Images (n, C, H, W): uint8 in [0, 255] or float32 in [0, 1]."""

Refusal = Literal["duplicate", "constant", "client_share"]

_DIGEST_BYTES = 16


class Sample(NamedTuple):
    """One image in a window.

    Attributes:
        image: (1, C, H, W), owned by the window.
        digest: Of its type and content.
        client: Who sent it.
        arrived_s: When it was let in.
    """

    image: Images
    digest: bytes
    client: str
    arrived_s: float


class Offered(NamedTuple):
    """The images of a request, and what must be known of each before it may be learnt from; `prepared` makes it.

    Attributes:
        images: (n, C, H, W), not written to later.
        digests: Of each image's type and content.
        constant: Which are of one colour.
    """

    images: Images
    digests: tuple[bytes, ...]
    constant: tuple[bool, ...]

    def only(self, places: npt.NDArray[np.int64]) -> "Offered":
        """Return some of the images, in the order of their places (m,)."""
        digests, constant = (tuple(of[i] for i in places) for of in (self.digests, self.constant))
        return Offered(self.images[places], digests, constant)


class Window:
    """Let images in, and hand them out in order of arrival.

    An image is refused if it is of one colour, if it equals one of the last `recent` images (a still camera, or
    somebody who repeats what harms), or if its sender has its share of the window already.

    Attributes:
        began_s: When the first image was let in, even if a newer one has taken its place since; infinite if none waits.
        bytes: Size of the images that wait.
    """

    def __init__(self, rows: int, max_client_share: float = 1.0, recent: int = 256) -> None:
        """Start empty.

        Args:
            rows: Images that make a full window.
            max_client_share: Share of a full window that one client may have, in (0, 1].
            recent: How many images back an equal one is refused; 0 refuses none.
        """
        self._most_of_a_client = max(1, int(rows * max_client_share)) if max_client_share < 1 else None
        self._recent: deque[bytes] = deque(maxlen=recent)
        self._known: set[bytes] = set()
        self._rows: deque[Sample] = deque()
        self._clients: Counter[str] = Counter()
        self.began_s = float("inf")
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._rows)

    @property
    def recent(self) -> list[bytes]:
        """Digests of the images that are refused if they come again, oldest first."""
        return list(self._recent)

    def offer(self, offered: Offered, client: str, now_s: float, beside: "Window | None" = None) -> Counter[Refusal]:
        """Let in what may be learnt from.

        Args:
            offered: The images; what is let in is copied.
            client: Who sent them.
            now_s: The time, on any monotonic clock.
            beside: Lets in what is refused here for what came before it, and not for what it is.

        Returns:
            How many images were refused, by reason.
        """
        refused: Counter[Refusal] = Counter()
        for index, (digest, constant) in enumerate(zip(offered.digests, offered.constant, strict=True)):
            reason = "constant" if constant else self._refusal(digest, client)
            into = beside if reason in ("duplicate", "client_share") else None if reason else self
            if reason:
                refused[reason] += 1
            if into is not None:
                into._keep(Sample(offered.images[index : index + 1].copy(), digest, client, now_s))
                into._remember(digest)
        return refused

    def take(self, rows: int) -> list[Sample]:
        """Remove the `rows` oldest images, or all if there are fewer, and return them in order of arrival."""
        taken = self._remove(rows)
        self.began_s = self._rows[0].arrived_s if self._rows else float("inf")
        return taken

    def displace(self, rows: int) -> None:
        """Remove the `rows` oldest images for newer ones: what is left counts as begun when they came."""
        self._remove(rows)

    def put_back(self, rows: Iterable[Sample], recent: Iterable[bytes]) -> None:
        """Become what a window was, such as that of a stream that comes back from disk; this one must be fresh.

        Args:
            rows: Its images.
            recent: Its digests, as `recent` gave them.
        """
        for row in rows:
            self._keep(row)
        for digest in recent:
            self._remember(digest)

    def _refusal(self, digest: bytes, client: str) -> Refusal | None:
        if digest in self._known:
            return "duplicate"
        if self._most_of_a_client is not None and self._clients[client] >= self._most_of_a_client:
            return "client_share"
        return None

    def _keep(self, row: Sample) -> None:
        if not self._rows:
            self.began_s = row.arrived_s
        self._rows.append(row)
        self._clients[row.client] += 1
        self.bytes += row.image.nbytes

    def _remember(self, digest: bytes) -> None:
        if self._recent.maxlen:
            if len(self._recent) == self._recent.maxlen:
                self._known.discard(self._recent[0])
            self._recent.append(digest)
            self._known.add(digest)

    def _remove(self, rows: int) -> list[Sample]:
        taken = [self._rows.popleft() for _ in range(min(rows, len(self._rows)))]
        for row in taken:
            self._clients[row.client] -= 1
            self.bytes -= row.image.nbytes
        self._clients += Counter()  # forgets who has none left
        return taken


def is_constant(image: npt.NDArray[Any]) -> bool:
    """Return whether an image (C, H, W) is of one colour."""
    row = image[0, 0]
    if row.item(0) != row.item(-1) or not (row == row[0]).all():  # tells nearly all of them apart
        return False
    return bool((image == image[:, :1, :1]).all())


def prepared(images: Images) -> Offered:
    """Return images (n, C, H, W) as a window takes them: hashed, and tested for one colour."""
    digests = tuple(_digest(images[i : i + 1]) for i in range(len(images)))
    return Offered(images, digests, tuple(map(is_constant, images)))


def as_samples(offered: Offered, client: str, arrived_s: float) -> list[Sample]:
    """Return images as rows, whether or not a window would let them in; nothing is copied."""
    return [Sample(offered.images[i : i + 1], digest, client, arrived_s) for i, digest in enumerate(offered.digests)]


def digest(rows: Iterable[Sample]) -> str:
    """Return what names a window in the audit log: a hash of its images in order, in hex."""
    return blake2b(b"".join(row.digest for row in rows), digest_size=_DIGEST_BYTES).hexdigest()


def _digest(image: Images) -> bytes:
    found = blake2b(image.dtype.str.encode(), digest_size=_DIGEST_BYTES)
    found.update(np.ascontiguousarray(image).data.cast("B"))
    return found.digest()
