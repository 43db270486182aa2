"""What the device thread does: answer groups of requests, learn from windows. No threads in here.

Whatever goes wrong with one stream sets that stream aside and disturbs no other.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from tta_server.adapters.base import TooFewImagesError
from tta_server.errors import BadRequest, NotFinite, NotReady, SetAside, TTAError
from tta_server.guard.verdict import Serve
from tta_server.runtime.job import Answer, Author, Draft, Job, Piece, Scores
from tta_server.runtime.work.answerer import warm_up
from tta_server.runtime.work.damage import Damage
from tta_server.runtime.work.device import read
from tta_server.runtime.work.lessons import Lessons
from tta_server.runtime.work.parts import Parts
from tta_server.runtime.work.router import Look, Router
from tta_server.storage.audit import now
from tta_server.streams.event import StreamEvent
from tta_server.streams.stream import Answering, Stream
from tta_server.streams.window import as_samples
from tta_server.telemetry.closed_sets import DropReason

log = logging.getLogger(__name__)


class Worker:
    """Own the backbone and every stream; one thread at a time may call it.

    Attributes:
        parts: What it is made of.
        lessons: What is learnt from while others are answered.
    """

    def __init__(self, parts: Parts) -> None:
        """Take everything over."""
        self.parts = parts
        self.lessons = Lessons(parts.registry, parts.learner, parts.answerer.sharing)
        self._registry = parts.registry
        self._metrics = parts.metrics
        self._ready: dict[Draft, Answer] = {}  # to be handed out
        self._damage = Damage(parts.learns, parts.answers)

    def warm_up(self, rows: int) -> float:
        """Run one image and `rows` images through everything once; returns the seconds that a step took."""
        parts = self.parts
        took_s = warm_up(parts.learns, parts.answers, parts.methods.default, rows, self._registry.pace.rows)
        self._damage.remember()
        return took_s

    def grouping(self) -> Callable[[Job], Hashable]:
        """Return what gives jobs that may share a forward an equal key, as things stand now."""
        known: dict[str, Answering] = {}

        def key(job: Job) -> Hashable:
            try:
                if job.stream not in known:
                    known[job.stream] = self._registry.peek(job.stream)
                return self.parts.answerer.key(job, known[job.stream])
            except Exception:  # an adapter may be anybody's; `answer` finds out and says so
                return "alone", id(job)

        return key

    def answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs, and put their images into the windows of their streams."""
        now_s = time.monotonic()
        with self._registry.at_work():
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            sound = set[Stream]()
            asked = [(job, stream) for job in running if (stream := self._open(job, sound))]
            for job, _ in asked:
                self._metrics.stage("queue", now_s - job.arrived_s)
            apart, drafts = list[tuple[Job, Stream]](), dict[Job, Draft]()
            for job, stream in asked:
                if stream.tells_apart:
                    apart.append((job, stream))
                else:
                    drafts[job] = Draft(job, stream, [Piece(job, stream)], now_s)
            answered = self._route(apart, drafts, now_s)
            left = [part for draft in drafts.values() for part in draft.parts if part not in answered]
            for part, scores in answered.items():
                draft = drafts[part.job]
                self._take(draft, part, scores, Author(draft.stream.version, part.stream.adapted, source=True))
            self._hand_out()
            for group in self.parts.answerer.groups(left):
                self._answer(group, drafts)

    def at_work(self) -> AbstractContextManager[None]:
        """Leave every stream where it is meanwhile; see `Registry.at_work`."""
        return self._registry.at_work()

    def due_s(self) -> float | None:
        """Return when there is something to learn, on the monotonic clock; None if nothing waits."""
        return self._registry.due_s()

    def learn(self, now_s: float) -> None:
        """Learn from the window that is due longest, together with others that are due and fit into one step."""
        self.lessons.carry_out(self.lessons.work_out(self.lessons.take(now_s)))

    def shed(self, now_s: float) -> None:
        """Drop the window that is due longest, or what waits beside steps: there is no time for it."""
        if window := self._registry.take_due(now_s):
            stream, rows = window
            self._tell(stream, "shed", len(rows))
        else:
            self._registry.take_beside()

    def damage(self) -> str:
        """Return what is wrong with the shared network, or an empty string."""
        return self._damage.found()

    @property
    def unread_s(self) -> float:
        """When one of the streams on disk that were not read yet may be read; infinite if there is none."""
        return self._registry.unread_s

    def read_on(self, asked: bool) -> None:
        """Read one of those: so lists are whole soon, and whoever never learnt is known; see `Stock.read_on`."""
        with self._registry.at_work():
            self._registry.read_on(asked)

    def park_idle(self, now_s: float, idle_s: float) -> None:
        """Move streams to disk that were not asked for `idle_s`, 0 moves none; erase those that never learnt."""
        self.parts.newcomers.expire(now_s)
        self._registry.evict_idle(now_s, idle_s)

    def _open(self, job: Job, sound: set[Stream]) -> Stream | None:
        """Return the stream of a request, of which those that an answer can begin with are remembered in `sound`."""
        try:
            self._registry.arrive(job.stream)
            self.parts.newcomers.visit(job.stream, job.client, job.arrived_s)
            stream = self._registry.open(job.stream, job.arrived_s)
            if stream not in sound:
                self.parts.answerer.key(job, stream.answering)  # fails here if it does
                sound.add(stream)
            return stream
        except TTAError as error:
            job.future.set_exception(error)
        except Exception as error:
            self._set_aside(job, error)
        return None

    def _route(
        self, asked: Sequence[tuple[Job, Stream]], drafts: dict[Job, Draft], begun_s: float
    ) -> dict[Piece, Scores]:
        """Tell the images of requests apart; returns the parts that the frozen model has answered with that."""
        router, answered = self.parts.router, dict[Piece, Scores]()
        if router is None or not asked:
            return answered
        looks, tidied, rows = self._looks(router, asked), set[str](), Counter[object]()
        for job, stream in asked:
            if job.future.done():
                continue
            try:
                if stream.name not in tidied:  # before anything points at a domain of it
                    router.tidy(stream)
                    tidied.add(stream.name)
                look = looks[job]
                busy = {part.stream.name for draft in drafts.values() for part in draft.parts}
                draft = drafts[job] = Draft(job, stream, router.place(job, stream, look, busy), begun_s)
                for part in draft.parts if look.scores else ():
                    scores = look.of(part)
                    if part.stream.answers_as_source:
                        answered[part] = scores
                        rows[look.forward] += part.rows
                    else:
                        draft.see(part, scores)
            except Exception as error:
                self._set_aside(job, error)
        for count in rows.values():
            self._metrics.batch(count)
        return answered

    def _looks(self, router: Router, asked: Sequence[tuple[Job, Stream]]) -> dict[Job, Look]:
        started_s = time.monotonic()
        try:
            looks = router.look(asked)
        except Exception as error:
            if len(asked) > 1:  # one of them may be at fault
                return {job: look for one in asked for job, look in self._looks(router, [one]).items()}
            self._refuse([asked[0][0]], error)
            return {}
        self._metrics.stage("route", time.monotonic() - started_s)
        return looks

    def _answer(self, group: Sequence[Piece], drafts: Mapping[Job, Draft]) -> None:
        group = [part for part in group if not part.job.future.done()]  # another part of it may have failed
        if not group:
            return
        started_s, first = time.monotonic(), group[0]
        said = {stream: (stream.adapted, stream.answers_as_source) for stream in {part.stream for part in group}}
        authors = [Author(drafts[part.job].stream.version, *said[part.stream]) for part in group]
        try:
            if first.stream.mode == "inline" and first.rows > 1 and not first.stream.answers_as_source:
                scores, serve = self._inline(first, drafts[first.job])
                by_source = serve == "source"
                authors = [Author(version, adapted and not by_source, by_source) for version, adapted, _ in authors]
            else:
                scores = self.parts.answerer.answer(group)
                if first.stream.serve == "source":
                    authors = [Author(version, adapted=False, source=True) for version, *_ in authors]
        except Exception as error:
            self._fail(group, drafts, error)
            return
        self._metrics.batch(len(scores.probabilities))
        self._metrics.stage("forward", time.monotonic() - started_s)
        end = 0
        for part, author in zip(group, authors, strict=True):
            start, end = end, end + part.rows
            self._take(drafts[part.job], part, scores.only(slice(start, end)), author)
        self._hand_out()

    def _hand_out(self) -> None:
        """Write down what was answered with one forward, and give the answers to their callers, all at once.

        Each alone would wake the event loop, and have it wait for the interpreter while this thread keeps its books.
        """
        asked: dict[Stream, list[Draft]] = {}
        for draft in self._ready:
            asked.setdefault(draft.stream, []).append(draft)
        for stream, drafts in asked.items():
            try:
                self._write_down(stream, drafts)
            except Exception as error:
                self._set_aside(drafts[0].job, error)
        ready, self._ready = self._ready, {}
        for draft, answer in ready.items():
            draft.job.future.set_result(answer)

    def _write_down(self, stream: Stream, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            job, scores = draft.job, draft.whole
            if job.request_id:
                self.parts.ledger.add(job.request_id, stream.name, scores.classes, draft.source, job.images)
            # Summed by Python: for so few numbers a call of numpy takes longer than all else here.
            ratio = sum(scores.entropies.tolist()) / job.rows / math.log(scores.probabilities.shape[1])
            stream.observe(ratio, sum(scores.confidences.tolist()) / job.rows, job.rows)
        self._tell(stream, "answered", sum(draft.job.rows for draft in drafts))
        frozen = [(part, draft.scores(part)) for draft in drafts for part in draft.frozen]
        self.parts.watcher.answered(stream, frozen)
        apart = stream.tells_apart
        at = now() if apart else ""
        for draft in drafts:
            for part in draft.parts:
                if apart:
                    part.stream.lately = part.stream.lately.after(part.rows, stream.images, at)
                if part.stream is not stream:
                    part.stream.images += part.rows
                if part.stream.learns_later:
                    self._offer(part)
            if apart:
                self.parts.watcher.looked(stream, draft.parts, at)

    def _take(self, draft: Draft, part: Piece, scores: Scores, author: Author) -> None:
        try:
            if draft.take(part, scores, author):
                self._reply(draft, draft.answer())
        except Exception as error:
            self._set_aside(draft.job, error)

    def _fail(self, group: Sequence[Piece], drafts: Mapping[Job, Draft], error: Exception) -> None:
        """Answer a group anew, stream by stream, because one of them may be at fault; or fail the one that it is of."""
        names = dict.fromkeys(part.stream.name for part in group)
        if len(names) > 1:
            for name in names:
                self._answer([part for part in group if part.stream.name == name], drafts)
            return
        self._refuse(list(dict.fromkeys(part.job for part in group)), error)

    def _refuse(self, jobs: Sequence[Job], error: Exception) -> None:
        log.error("a forward over %d images failed", sum(job.rows for job in jobs), exc_info=error)
        theirs = isinstance(error, TooFewImagesError)
        wrong = BadRequest(str(error)) if theirs else TTAError("the model failed; see the log")
        for job in jobs:
            job.future.set_exception(wrong)

    def _inline(self, part: Piece, draft: Draft) -> tuple[Scores, Serve]:
        self._tell(part.stream, "offered", part.rows)
        samples = as_samples(part.offered, part.job.client, part.job.arrived_s)
        output, serve, frozen = self.parts.learner.inline(part.stream, samples)
        if len(frozen.logits):
            draft.see(part, read(frozen))
        return read(output), serve

    def _reply(self, draft: Draft, answer: Answer) -> None:
        if not math.isfinite(sum(draft.whole.confidences.tolist())):
            wrong = NotFinite("the model's answer to these images is not finite; nothing was learnt")
            draft.job.future.set_exception(wrong)
            return
        self._ready[draft] = answer

    def _offer(self, part: Piece) -> None:
        job, stream = part.job, part.stream
        now_s, pace = time.monotonic(), self._registry.pace
        lost: dict[DropReason, int] = {}
        beside = stream.again if stream.is_judged else None
        for reason, count in stream.window.offer(part.offered, job.client, now_s, beside).items():
            lost[reason] = count
        stream.again.displace(len(stream.again) - pace.rows)
        if surplus := pace.surplus(stream.window, part.rows, now_s):
            too_young = now_s < stream.window.began_s + pace.min_age_s
            stream.window.displace(surplus)
            lost["too_young" if too_young else "overload"] = surplus
        self._tell(stream, "offered", part.rows, lost)

    def _tell(
        self,
        stream: Stream,
        kind: Literal["answered", "offered", "shed"],
        rows: int,
        lost: Mapping[DropReason, int] | None = None,
    ) -> None:
        standing = stream.standing
        self.parts.news.tell(StreamEvent(stream.name, kind, standing, standing, stream, rows=rows, lost=lost or {}))

    def _set_aside(self, job: Job, error: Exception) -> None:
        """Set the stream of a request aside, for something that should not fail did, and go on with the others."""
        if not isinstance(error, NotReady):  # that passes
            self._registry.set_aside(job.stream, error)
            error = SetAside(job.stream, str(error))
        if not (job.future.done() or any(draft.job is job for draft in self._ready)):
            job.future.set_exception(error)
