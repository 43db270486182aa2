"""A new domain of a stream, whoever asks for it."""

from tta_server.domains.place import Place
from tta_server.names import domain_name
from tta_server.storage.audit import now
from tta_server.streams.registry import Registry
from tta_server.streams.stream import Stream
from tta_server.streams.whereabouts import Whereabouts


def whereabouts_of(stream: Stream) -> Whereabouts:
    """Return where a stream has been.

    Raises:
        ValueError: If it tells no domains apart.
    """
    if stream.whereabouts is None:
        raise ValueError(f"stream '{stream.name}' tells no domains apart")
    return stream.whereabouts


def open_domain(registry: Registry, stream: Stream, place: Place, title: str = "") -> Stream:
    """Open a domain, under the stream's next number, and return it; it starts from the source.

    Args:
        registry: The streams.
        stream: Whose domain it is; it tells domains apart and has room for one.
        place: Where it lies.
        title: What an operator calls it.
    """
    been = whereabouts_of(stream).knowing(registry.spent(stream.name))
    domain = registry.create(domain_name(stream.name, been.next), stream.mode, stream.method)
    stream.whereabouts = been.opened()
    domain.mode_s, domain.place, domain.title, domain.since = stream.mode_s, place, title, now()
    return domain
