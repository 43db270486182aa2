"""Tell a stream's images apart: which domain each belongs to, and what is done about one that is new.

What lies within the source's reach is at home: the frozen model answers it, and nobody learns from it. The rest goes to
the nearest domain within whose reach it lies; what lies nowhere opens one.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from tta_server.domains.merge import alike
from tta_server.domains.place import Group, Place, Values, distances
from tta_server.domains.route import NEW, cut, follow, is_few, route
from tta_server.domains.space import StyleSpace
from tta_server.drift.scores import Yardstick
from tta_server.errors import NotReady, SetAside
from tta_server.models import Backbone
from tta_server.runtime.job import HOME, Job, Piece, Scores
from tta_server.runtime.work.device import on_device, read
from tta_server.streams.event import EventKind, News, StreamEvent
from tta_server.streams.opening import open_domain, whereabouts_of
from tta_server.streams.registry import Registry
from tta_server.streams.stream import Stream
from tta_server.telemetry.closed_sets import DropReason


class Look(NamedTuple):
    """What the frozen model says of the images of one request.

    Attributes:
        styles: Whitened (n, D).
        scores: Its answer; None if nobody is likely to need it.
        forward: The same for all requests that shared a forward.
    """

    styles: Values
    scores: Scores | None
    forward: object

    def of(self, part: Piece) -> Scores:
        """Return what it says of a part; ValueError if nobody asked for its answer."""
        if self.scores is None:
            raise ValueError("the frozen model was not asked for its answer")
        return self.scores if part.places is None else self.scores.only(part.places)


class Router:
    """Find the domain of each image; the device thread alone may call it."""

    def __init__(
        self,
        backbone: Backbone,
        seen_by: tuple[StyleSpace, Yardstick | None],
        most: int,
        registry: Registry,
        news: News,
    ) -> None:
        """Prepare.

        Args:
            backbone: The network.
            seen_by: Where styles are compared; and the source's yardstick, if drift is to be seen.
            most: Domains that a stream may have.
            registry: The streams.
            news: What happens to streams.
        """
        self._backbone = backbone
        self._space, self._yardstick = seen_by
        self._most = most
        self._registry = registry
        self._news = news
        self._apart: WeakKeyDictionary[Stream, Mapping[str, Place]] = WeakKeyDictionary()  # when none were alike
        self._source = Place.source(len(self._space.mean), self._space.images)

    @property
    def limit(self) -> float:
        """Distance from which images are not the source's any more; see `StyleSpace`."""
        return self._space.limit

    def look(self, asked: Sequence[tuple[Job, Stream]]) -> dict[Job, Look]:
        """Show requests to the frozen model, those together that may need its whole answer and those that will not."""
        found: dict[Job, Look] = {}
        for whole in (True, False):
            jobs = [job for job, stream in asked if self._needs_answer(stream) == whole]
            groups = [jobs] if self._backbone.findings.apart else [[job] for job in jobs]
            for group in groups if jobs else ():
                found |= self._look(group, whole)
        return found

    def place(self, job: Job, stream: Stream, look: Look, busy: Collection[str] = ()) -> list[Piece]:
        """Return the parts of a request, each with the stream or the domain that answers it.

        Args:
            job: The request.
            stream: Whose it is.
            look: What the frozen model says of it.
            busy: Domains that are about to answer other requests, and cannot be spared.
        """
        if not np.isfinite(look.styles).all():  # the source answers, if anything can, and nobody learns from it
            return [Piece(job, stream)]
        known = self._registry.domains(stream.name)
        seen, places, recent = self._where(stream, known, look.styles)
        where = places[-job.rows :]
        found = dict.fromkeys(where)

        asked = {0: stream}
        wanted = [(index, *one) for index, one in enumerate(known.items(), 1) if index in found]
        try:
            asked |= {index: self._registry.open(name, job.arrived_s) for index, name, _ in wanted}
        except SetAside:  # one domain alone: the others are what is known now
            return self.place(job, stream, look, busy)
        stream.whereabouts = whereabouts_of(stream).after(recent)  # once all are there: a request is folded in once
        for index, _, place in wanted:
            asked[index].place = place.seen(torch.from_numpy(look.styles[_are(index, where)]))
        if NEW in found:
            others = {*busy, *(one.name for one in asked.values())}
            asked[NEW] = self._open(stream, seen.only(_are(NEW, places)), job, others)
        last = where[-1]
        self._arrive(stream, asked[last], seen.only(_are(last, places)), known)
        if asked.get(NEW) is stream:  # there is no room: home answers these with its own, in one piece
            where = [0 if index == NEW else index for index in where]
        found = dict.fromkeys(where)
        if len(found) == 1:
            return [Piece(job, asked[where[-1]])]
        return [Piece(job, asked[index], np.flatnonzero(np.array(where) == index)) for index in found]

    def would(self, job: Job, stream: Stream) -> list[str]:
        """Return the domain that each image of a request would be taken for, `HOME`, or empty; nothing is changed."""
        styles = self._look([job], False)[job].styles
        if not np.isfinite(styles).all():
            return [HOME] * job.rows
        known = self._registry.domains(stream.name)
        names = {NEW: ""} | dict(enumerate([HOME, *known]))
        return [names[index] for index in self._where(stream, known, styles)[1][-job.rows :]]

    def tidy(self, stream: Stream) -> None:
        """Merge two domains of a stream that have become alike, if there are two; places move only away from home."""
        if not whereabouts_of(stream).current:
            return
        known = self._registry.domains(stream.name)
        before = self._apart.get(stream, {})
        moved = {index for index, (name, place) in enumerate(known.items(), 1) if before.get(name) is not place}
        pair = alike([self._source, *known.values()], self._space.limit, moved)
        if not pair:
            self._apart[stream] = known
            return
        kept, gone = ([*known][index - 1] for index in pair)
        if {kept, gone} & self._registry.learning:
            return
        if self._registry.summary(gone).steps > self._registry.summary(kept).steps:
            kept, gone = gone, kept
        try:
            domain = self._registry.existing(kept)
        except (SetAside, NotReady):  # that domain alone
            return
        if domain.place:
            domain.place = domain.place.merged(known[gone])
        reason = f"'{gone}' had become like '{kept}'"
        self._leave("merge", stream, gone, reason, {"domain": kept, "merged": gone})
        if whereabouts_of(stream).current == gone:
            stream.whereabouts = whereabouts_of(stream).at(kept)

    def _arrive(self, stream: Stream, last: Stream, images: Group, known: dict[str, Place]) -> None:
        """Note where a stream is now.

        Args:
            stream: Whose images they were.
            last: Who answers the last one.
            images: By which that one was judged.
            known: The domains before them.
        """
        here = known.get(last.name) or last.place or self._source
        distance, from_source = distances([here, self._source], images)
        been = whereabouts_of(stream)
        stream.whereabouts = been.arrived(last.name if last.parent else "", distance, from_source)
        if last.name in known and last.name != been.current:
            self._tell("recall", stream, "", {"domain": last.name})

    def _needs_answer(self, stream: Stream) -> bool:
        """Say whether the frozen model is likely to answer the next images of a stream."""
        current = whereabouts_of(stream).current
        return not current or self._registry.peek(current).as_source

    def _look(self, jobs: Sequence[Job], whole: bool) -> dict[Job, Look]:
        x = on_device((job.images for job in jobs), self._backbone.device)
        styles, output = self._space.styles(self._backbone, x, whole)
        scores = read(output, self._yardstick) if output else None
        found, values, end, forward = {}, styles.numpy(), 0, object()
        for job in jobs:
            start, end = end, end + job.rows
            own = scores.only(slice(start, end)) if scores else None
            found[job] = Look(values[start:end], own, forward)
        return found

    def _where(self, stream: Stream, known: dict[str, Place], styles: Values) -> tuple[Group, list[int], Values]:
        """Return the images by which these are judged, these last; where each belongs; and what to keep of the last."""
        places, names, been = [self._source, *known.values()], ["", *known], whereabouts_of(stream)
        seen, limit = Group(been.seen(styles)), self._space.limit
        parts = cut(seen, limit)
        if is_few(len(styles)):
            current = names.index(been.current) if been.current in names else 0
            found = follow(places, parts, current, limit)
        else:
            seen = Group(styles)
            found = route(places, seen, limit)
        if stream.mode == "inline" or stream.method.adapter.batch_coupled:  # rows that one forward must see together
            own = found[-len(styles) :]
            found = found[: -len(own)] + [Counter(own).most_common(1)[0][0]] * len(own)
        return seen, found, parts[-1].styles

    def _open(self, stream: Stream, images: Group, job: Job, busy: set[str]) -> Stream:
        """Open a domain for images; if there is no room, one that can be spared goes.

        Returns:
            The domain; the stream itself, which answers as the source, if none of the others (`busy`) can be spared.
        """
        if self._registry.count_domains(stream.name) >= self._most:
            spared = self._registry.idlest_domain(stream.name, busy)
            if not spared:
                return stream
            self._leave("forget", stream, spared, f"a new one took the place of '{spared}'", {"domain": spared})
        place = Place.first(torch.from_numpy(images.styles))
        domain = open_domain(self._registry, stream, place)
        domain.touched_s = job.arrived_s
        reason = f"what it sees lies {self._source.apart(place):.3g} times the usual spread from the source"
        self._tell("open", stream, reason, {"domain": domain.name}, request_id=job.request_id)
        return domain

    def _leave(self, kind: EventKind, stream: Stream, domain: str, reason: str, extra: dict[str, str]) -> None:
        waiting = self._registry.summary(domain).images_in_window
        self._registry.delete(domain)
        self._tell(kind, stream, reason, extra, {"reset": waiting} if waiting else {})

    def _tell(
        self,
        kind: EventKind,
        stream: Stream,
        reason: str,
        extra: dict[str, str],
        lost: Mapping[DropReason, int] = MappingProxyType({}),
        request_id: str = "",
    ) -> None:
        at = stream.standing
        self._news.tell(
            StreamEvent(stream.name, kind, at, at, stream, reason=reason, lost=lost, extra=extra, request_id=request_id)
        )


def _are(index: int, where: Sequence[int]) -> npt.NDArray[np.bool_]:
    return np.equal(where, index)
