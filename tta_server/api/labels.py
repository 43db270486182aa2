"""`POST /v1/labels`: true labels that come after the answers."""

from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.types import Message

from tta_server.api.answers import LabelsCounted, returns
from tta_server.api.bodies import MOST_LABELS, Labels
from tta_server.api.front.permission import key_of
from tta_server.api.reading.json_body import JsonRoute, opened
from tta_server.errors import BadRequest, TooLarge
from tta_server.runtime.commands.stream_commands import Commands
from tta_server.runtime.result import result_of
from tta_server.runtime.served import Served, find
from tta_server.streams.ledger import Label

_MOST_COMMAS = 8 * MOST_LABELS
_AT_ONCE = 16  # the frozen model may have to look at each image, and requests wait meanwhile


class _Counted(JsonRoute):
    """A route whose body is counted before it is parsed: a million empty lists take JSON's parser a second."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what handles a request."""
        handler = super().get_route_handler()

        async def counted(request: Request) -> Response:
            plain = await opened(request)
            body = await plain.body()
            if max(body.count(b"{"), body.count(b"[")) > MOST_LABELS + 1 or body.count(b",") > _MOST_COMMAS:
                raise TooLarge(f"the body holds more than the {MOST_LABELS} labels that are taken at once")

            async def again() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await handler(Request(plain.scope, again))

        return counted


def router(models: Mapping[str, Served]) -> APIRouter:
    """Return the route.

    Args:
        models: What is served; the first is meant here.
    """
    routes = APIRouter(prefix="/v1", tags=["labels"], route_class=_Counted)
    served = find(models)
    names = served.model.labels
    places = {name: index for index, name in enumerate(names)}
    repeated = {name for name, count in Counter(names).items() if count > 1}

    def index_of(label: int | str) -> int:
        if isinstance(label, int):
            return label  # `Commands.whose` looks whether it is one
        if label not in places:
            raise BadRequest(f"label '{label[:80]}' is no class of this model; it has {', '.join(names[:5])}, ...")
        if label in repeated:
            raise BadRequest(f"several classes are called '{label[:80]}'; send the index of the one that is meant")
        return places[label]

    @routes.post("/labels", **returns(LabelsCounted, 400, 413))
    async def label_images(asked: Labels, request: Request) -> dict[str, Any]:
        """Count true labels of answered images; returns the exact accuracy of each stream they are about.

        It is of a stream's last 1,000 labels, since an operator had it go on from another state: `answered` counts
        every answer; `adapted` and `source` compare the answers and the frozen model, both on the images that the
        frozen model has seen or can still be asked about; with 95 % intervals. A label is `unknown` if no such request
        is remembered, or its image was labelled before.
        """
        labels = [Label(each.id, each.image, index_of(each.label), each.stream or "") for each in asked.labels]
        whose = partial(Commands.whose, labels=labels, may=key_of(request).is_for_stream)
        known = await result_of(served.engine.command(whose))  # all, before any of them is counted
        counted: Counter[str] = Counter(counted=0, unknown=len(labels) - len(known))
        streams: dict[str, Any] = {}
        for start in range(0, len(known), _AT_ONCE):
            some = known[start : start + _AT_ONCE]
            found = await result_of(served.engine.command(partial(Commands.label, labels=some)))
            streams |= found.pop("streams")
            counted.update(found)
        return {**counted, "streams": streams}

    return routes
