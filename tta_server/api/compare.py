"""`/v1/streams/{name}/compare`: what a stream and the frozen model say of the same images."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request

from tta_server.api.answers import Comparison, returns
from tta_server.api.bodies import StreamPath
from tta_server.api.caller import Callers, hung_up
from tta_server.api.front.permission import take
from tta_server.api.predict import IMAGES, uploads
from tta_server.api.reading.json_body import JsonRoute
from tta_server.runtime.answer import Question, compare
from tta_server.runtime.commands.compare_commands import Beside
from tta_server.runtime.job import Scores
from tta_server.runtime.served import Served, find

_TOP = 3


def router(models: Mapping[str, Served], callers: Callers) -> APIRouter:
    """Return the route.

    Args:
        models: What is served; the first is meant here.
        callers: Knows who asks.
    """
    routes = APIRouter(prefix="/v1/streams/{name}/compare", tags=["predict"], route_class=JsonRoute)
    served = find(models)
    labels = served.model.labels

    @routes.post("", openapi_extra=IMAGES, **returns(Comparison, 400, 404, 413, 415, 429, 503))
    async def compare_answers(name: StreamPath, request: Request) -> dict[str, Any]:
        """Answer image files as `/predict` takes them twice, by the frozen model and by what a stream has learnt.

        Nothing is learnt from them, and nothing is counted. Name a domain to see what that one says of them.
        """
        served.engine.refuse_if_full()
        sent = await uploads(request, served.engine.max_rows, served.decoding.quick)
        take(request, len(sent))
        version, found = await compare(served, Question(name, sent, callers.client(request)), hung_up(request))
        images = [two_answers(each, labels) for each in found]
        return {"stream": name, "state_version": version, "images": images}

    return routes


def two_answers(found: Beside, labels: Sequence[str]) -> dict[str, Any]:
    """Return what both models say of one image, as `Compared` has it."""
    return {
        "domain": found.domain,
        "adapted": found.adapted,
        "source": _said(found.source, labels),
        "learnt": _said(found.learnt, labels) if found.learnt else None,
    }


def _said(scores: Scores, labels: Sequence[str]) -> dict[str, Any]:
    """Return what a model says of one image."""
    (row,), (entropy_nats,) = scores.probabilities.tolist(), scores.entropies.tolist()
    best = sorted(range(len(row)), key=lambda index: -row[index])[:_TOP]
    top = [{"label": labels[index], "index": index, "probability": row[index]} for index in best]
    return {"label": top[0]["label"], "entropy_nats": entropy_nats, "top": top}
