"""What a server may be asked, one function each; they are called as in the server's OpenAPI document.

Each raises ValueError for a name that is part of a path and cannot be one: `a/b` would be another path.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx

from tta_server.client.answers import (
    AuditLines,
    Comparison,
    DomainAbout,
    DomainList,
    DomainsOpened,
    Gathered,
    IndexEntry,
    Inferred,
    LabelsCounted,
    Loaded,
    Predictions,
    SnapshotList,
    SnapshotTaken,
    StreamDetails,
    StreamPage,
    Switched,
    Unloaded,
)
from tta_server.client.drift_answers import DriftAbout, StrangeImages
from tta_server.client.sent import Content, ImageFiles, content_of, parts_of, plain, tensor_of
from tta_server.names import stream_of_domain, stream_or_domain_name

if TYPE_CHECKING:  # who sends files needs no numpy
    import numpy.typing as npt

HEADER: Final = "Inference-Header-Content-Length"

AdapterOf = Mapping[str, Any]
"""How a stream learns: `name` of the adapter, and its `settings` where they are not the defaults."""
LearningMode = Literal["after", "inline", "shadow", "off"]

Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Prepared(Generic[Returned]):
    """A request that is ready to be sent, as httpx takes one; `Returned` is its answer's type, `comes` its form."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Any = None
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    comes: Literal["json", "file", "nothing", "anything"] = "anything"

    def arguments(self) -> dict[str, Any]:
        """Return what httpx takes beside method and path; nothing that is left out, but an object without keys."""
        given = {name: getattr(self, name) for name in ("headers", "params", "content", "files")}
        sent = {name: value for name, value in given.items() if value}
        return sent if self.json is None else sent | {"json": plain(self.json)}


def predict(
    files: ImageFiles, stream: str = "", top_k: int | None = None, request_id: str = ""
) -> Prepared[Predictions]:
    """Classify image files.

    Args:
        files: Paths or contents of files, or files that are open for reading bytes; one or several.
        stream: Which stream answers; the server's default if empty.
        top_k: How many classes are listed for each image.
        request_id: What labels that come later call it; the server makes one up if empty.

    Raises:
        OSError: If a file cannot be read.
        TypeError: If something else is given.
    """
    return Prepared(
        "POST", "/predict", _named(stream, request_id), _given(top_k=top_k), files=parts_of(files), comes="json"
    )


def infer(model: str, images: "npt.ArrayLike", stream: str = "", request_id: str = "") -> Prepared[Inferred]:
    """Classify an array, sent as bytes.

    Args:
        model: Name of the model.
        images: (N, C, H, W), uint8, or floats in [0, 1].
        stream: Which stream answers; the server's default if empty.
        request_id: What labels that come later call it.

    Raises:
        TypeError: If the array is of another kind.
        ValueError: If parts of it are masked.
    """
    array = tensor_of(images)
    content = array.tobytes()
    tensor = {
        "name": "input",
        "datatype": "UINT8" if array.dtype == "uint8" else "FP32",
        "shape": list(array.shape),
        "parameters": {"binary_data_size": len(content)},
    }
    text = httpx.Request("POST", "http://x", json={"inputs": [tensor]}).content
    headers = _named(stream, request_id) | {HEADER: str(len(text)), "Content-Type": "application/octet-stream"}
    return Prepared("POST", _model_path("/v2/models", model, "infer"), headers, content=text + content, comes="json")


def compare_answers(stream: str, files: ImageFiles) -> Prepared[Comparison]:
    """Answer image files twice, by the frozen model and by what a stream or a domain has learnt; nothing is learnt."""
    return Prepared("POST", _path(stream, "compare"), _owner(stream), files=parts_of(files), comes="json")


def label_images(given: Iterable[Mapping[str, Any]], stream: str = "") -> Prepared[LabelsCounted]:
    """Tell true labels: `id` of the request, `label`, and `image` or `stream` where needed.

    Args:
        given: The labels.
        stream: Whose they are, where a balancer must find the replica that answered.
    """
    return Prepared("POST", "/v1/labels", _named(stream), json={"labels": [dict(each) for each in given]}, comes="json")


def list_streams(
    limit: int = 100,
    after: str = "",
    mode: LearningMode | None = None,
    answers: Literal["source", "adapted"] | None = None,
    frozen: bool | None = None,
    in_memory: bool | None = None,
) -> Prepared[StreamPage]:
    """List a page of streams, only those that are in a mode, answered by so, frozen or not, and in memory or not."""
    asked = _given(limit=limit, after=after, mode=mode, answers=answers, frozen=frozen, in_memory=in_memory)
    return Prepared("GET", "/v1/streams", params=asked, comes="json")


def create_stream(
    stream: str, mode: LearningMode | None = None, adapter: AdapterOf | None = None, reason: str = ""
) -> Prepared[StreamDetails]:
    """Open a stream before its first request."""
    content = _given(name=stream, mode=mode, adapter=adapter, reason=reason)
    return Prepared("POST", "/v1/streams", _owner(stream), json=content, comes="json")


def change_streams(mode: LearningMode | Literal["configured"], reason: str) -> Prepared[Switched]:
    """Switch every stream at once, and those to come; `configured` undoes it."""
    return Prepared("PATCH", "/v1/streams", json={"mode": mode, "reason": reason}, comes="json")


def read_stream(stream: str) -> Prepared[StreamDetails]:
    """Read everything about a stream or a domain."""
    return _about("GET", stream)


def change_stream(
    stream: str, mode: LearningMode | None = None, adapter: AdapterOf | None = None, reason: str = ""
) -> Prepared[StreamDetails]:
    """Change how a stream learns, and each of its domains with it."""
    return _about("PATCH", stream, json=_given(mode=mode, adapter=adapter, reason=reason))


def delete_stream(stream: str) -> Prepared[None]:
    """Erase a stream: memory, files and metric series."""
    return replace(_about("DELETE", stream), comes="nothing")


def evict_stream(stream: str) -> Prepared[None]:
    """Move a stream to disk until it is asked again."""
    return replace(_about("POST", stream, "evict"), comes="nothing")


def reset_stream(stream: str, reason: str = "") -> Prepared[StreamDetails]:
    """Go back to the frozen model; all domains of the stream are forgotten."""
    return _about("POST", stream, "reset", _given(reason=reason))


def roll_back_stream(stream: str, reason: str, version: int | None = None) -> Prepared[StreamDetails]:
    """Go back to a kept version, by default to the newest that passed the guard's complete check."""
    return _about("POST", stream, "rollback", _given(version=version, reason=reason))


def list_snapshots(stream: str) -> Prepared[SnapshotList]:
    """List a stream's snapshots, oldest first."""
    return _about("GET", stream, "snapshots")


def take_snapshot(stream: str, note: str = "") -> Prepared[SnapshotTaken]:
    """Keep the state that a stream has now."""
    return _about("POST", stream, "snapshots", _given(note=note))


def restore_snapshot(stream: str, snapshot: str, reason: str) -> Prepared[StreamDetails]:
    """Go back to a snapshot, under a new version."""
    return _about("POST", stream, "restore", {"snapshot": snapshot, "reason": reason})


def export_state(stream: str) -> Prepared[bytes]:
    """Take out what a stream or a domain has learnt, as a safetensors file."""
    return replace(_about("GET", stream, "state"), comes="file")


def import_state(stream: str, state: Content | BinaryIO) -> Prepared[StreamDetails]:
    """Have a stream go on from such a file; it is opened if it is not there."""
    return Prepared("PUT", _path(stream, "state"), _owner(stream), content=content_of(state), comes="json")


def list_domains(stream: str) -> Prepared[DomainList]:
    """List what a stream tells apart: what is at home, and each domain that it has met."""
    return _about("GET", stream, "domains")


def rename_domain(stream: str, number: int, title: str, reason: str = "") -> Prepared[DomainAbout]:
    """Call a domain something, in at most 64 characters; its name stays."""
    return _about("PATCH", stream, f"domains/{number:d}", {"title": title, **_given(reason=reason)})


def delete_domain(stream: str, number: int) -> Prepared[None]:
    """Erase a domain; the next image of its kind opens a new one."""
    return replace(_about("DELETE", stream, f"domains/{number:d}"), comes="nothing")


def offer_domain(stream: str, number: int, to: Iterable[str], reason: str) -> Prepared[DomainsOpened]:
    """Give other streams a copy of a domain to start from; all of them or none."""
    return _about("POST", stream, f"domains/{number:d}/offer", {"to": list(to), "reason": reason})


def read_drift(stream: str) -> Prepared[DriftAbout]:
    """Say whether a stream's input drifts, since when, and what says so."""
    return _about("GET", stream, "drift")


def read_strange_images(stream: str) -> Prepared[StrangeImages]:
    """Read the last images that raised the score, with both answers; they are kept with `drift.keep_images` only."""
    return _about("GET", stream, "strange")


def read_audit(limit: int = 100) -> Prepared[AuditLines]:
    """Read what happened to all streams, newest first."""
    return Prepared("GET", "/v1/audit", params={"limit": limit}, comes="json")


def read_audit_of_stream(stream: str, limit: int = 100) -> Prepared[AuditLines]:
    """Read what happened to one stream, newest first; also of one that was deleted."""
    return Prepared("GET", _path(stream, "audit"), _owner(stream), {"limit": limit}, comes="json")


def calibrate(
    reason: str, images: int | None = None, stream: str = "", replace: bool | None = None
) -> Prepared[Gathered]:
    """Take the next images as home, of one stream or of all."""
    content = _given(images=images, stream=stream, replace=replace, reason=reason)
    return Prepared("POST", "/v1/calibrate", _named(stream), json=content, comes="json")


def read_calibration() -> Prepared[Gathered]:
    """Say how far images are taken as home."""
    return Prepared("GET", "/v1/calibrate", comes="json")


def cancel_calibration() -> Prepared[Gathered]:
    """Take no more images as home, and forget those that were taken."""
    return Prepared("DELETE", "/v1/calibrate", comes="json")


def model_index() -> Prepared[list[IndexEntry]]:
    """List the models, loaded or not."""
    return Prepared("POST", "/v2/repository/index", comes="json")


def load_model(model: str) -> Prepared[Loaded]:
    """Have a model of the configuration answer; the server answers when it does."""
    return Prepared("POST", _model_path("/v2/repository/models", model, "load"), comes="json")


def unload_model(model: str) -> Prepared[Unloaded]:
    """Write what a model has learnt, and free its memory; the server answers when that is done."""
    return Prepared("POST", _model_path("/v2/repository/models", model, "unload"), comes="json")


def _given(**values: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """Return what is said at all."""
    return {name: value for name, value in values.items() if value is not None and value != ""}


def _named(stream: str, request_id: str = "") -> dict[str, str]:
    return _given(**{"X-Stream-Id": stream, "X-Request-Id": request_id})


def _owner(name: str) -> dict[str, str]:
    """Return the header by which balancers find the replica that has a stream, or the stream of a domain."""
    return _named(stream_of_domain(name))


def _path(name: str, what: str = "") -> str:
    path = f"/v1/streams/{stream_or_domain_name(name)}"
    return f"{path}/{what}" if what else path


def _model_path(where: str, name: str, what: str) -> str:
    """Return the path of a model, whose name may be that of any file."""
    if "/" in name or not name.strip("."):
        raise ValueError(f"model name '{name[:80]}' must be one part of a path")
    return f"{where}/{quote(name, safe='')}/{what}"


def _about(method: str, name: str, what: str = "", json: Any = None) -> Prepared[Any]:  # noqa: ANN401 (JSON)
    """Return a request about a stream or a domain of it."""
    return Prepared(method, _path(name, what), _owner(name), json=json, comes="json")
