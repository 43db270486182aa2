"""What the client asks and hears is what the server's OpenAPI document says, call for call and key for key."""

import inspect
from typing import Any, Literal, get_args

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from docs import write_answers
from tta_server import client
from tta_server.api.protocol.tensors import Expected, parse
from tta_server.client import Prepared, calls, change_stream, evict_stream, infer, predict, read_audit_of_stream

CALLS = [name for name in client.__all__ if name[0].islower()]
# The document's patterns are those of ECMA 262, which Python does not read.
WITHOUT_PATTERNS = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": lambda *_: ()})
VALUES = {
    "adapter": {"name": "tent", "settings": {"lr": 0.001}},
    "files": b"an image",
    "given": [{"id": "frame-1", "label": "Z"}],
    "images": np.zeros((1, 3, 2, 2), np.uint8),
    "limit": 5,
    "mode": "shadow",
    "model": "glyphs",
    "number": 2,
    "reason": "a new lens",
    "replace": True,
    "snapshot": "snapshot-1",
    "state": b"a state",
    "stream": "gate-7",
    "title": "fog",
    "to": ["gate-8"],
    "top_k": 3,
    "version": 0,
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return write_answers.document()


def test_the_types_of_answers_are_those_of_the_document(document):
    for name, written in write_answers.written(document).items():
        assert (write_answers.FOLDER / name).read_text() == written, "run python -m docs.write_answers"


def test_whatever_the_server_does_the_client_can_ask_for(document):
    assert set(CALLS) == set(write_answers.asked_by_the_client(document))


@pytest.mark.parametrize("whole", [False, True], ids=["what it needs", "all that it takes"])
@pytest.mark.parametrize("name", CALLS)
def test_each_call_is_sent_and_typed_as_the_document_says(document, name, whole):
    method, path, about = write_answers.asked_by_the_client(document)[name]
    call = getattr(client, name)
    taken = inspect.signature(call).parameters.values()
    given = {
        each.name: 256 if name == "calibrate" and each.name == "images" else VALUES[each.name]
        for each in taken
        if each.name in VALUES
        and (whole or each.default is each.empty or (name, each.name) == ("change_stream", "mode"))
    }

    asked: Prepared = call(**given)

    where = {"name": given.get("model", given.get("stream")), "number": given.get("number")}
    assert (asked.method, asked.path) == (method, path.format(**where))
    assert asked.headers.get("X-Stream-Id") == given.get("stream")
    assert asked.params.keys() <= {each["name"] for each in about.get("parameters", ()) if each["in"] == "query"}
    kinds = about.get("requestBody", {}).get("content", {})
    if asked.json is not None:
        body = kinds["application/json"]["schema"]
        WITHOUT_PATTERNS(body | {"components": document["components"]}).validate(asked.json)
    assert not asked.files or "image" in kinds["multipart/form-data"]["schema"]["properties"]
    assert not about.get("requestBody", {}).get("required") or asked.json or asked.files or asked.content
    assert typed(get_args(inspect.signature(call).return_annotation)[0]) == answered(about)


def typed(answer: type) -> str:
    """Return what a call says of its answer, as the document would be written."""
    words = "bytes" if answer is bytes else "None" if answer is type(None) else getattr(answer, "__name__", str(answer))
    return f"list[{get_args(answer)[0].__name__}]" if get_args(answer) else words


def answered(about: dict[str, Any]) -> str:
    """Return what the document says of it."""
    schema = write_answers.answered(about)
    return write_answers.type_of(schema) if schema else "None" if "204" in about["responses"] else "bytes"


ODD_NAMES = ("", ".", "..", "door/audit", "../door", "door/domains/1")


@pytest.mark.parametrize("name", CALLS)
def test_a_name_that_would_be_another_path_is_refused_before_anything_is_sent(document, name):
    _, path, _ = write_answers.asked_by_the_client(document)[name]
    taken = [each for each in inspect.signature(getattr(client, name)).parameters if each in VALUES]
    good = {each: VALUES[each] for each in taken}
    odd = {"model": ODD_NAMES, "stream": (*ODD_NAMES, "door?x", "door%2Faudit", "door@", "d" * 65), "number": ("1/x",)}

    if "model" in taken:
        del odd["stream"]  # which a header has
    for parameter in set(taken) & (odd.keys() if "{name}" in path else set()):
        for value in odd[parameter]:
            with pytest.raises(ValueError, match=r"must be|format code"):
                getattr(client, name)(**good | {parameter: value})


def test_what_lists_streams_takes_is_typed_as_the_document_says(document):
    _, _, about = write_answers.asked_by_the_client(document)["list_streams"]
    taken = inspect.get_annotations(client.list_streams, eval_str=True)

    for each in about["parameters"]:
        assert taken[each["name"]] == eval(write_answers.type_of(each["schema"]), {"Literal": Literal}), each["name"]


def test_what_says_nothing_is_sent_as_an_object_all_the_same():
    assert change_stream("gate-7").arguments()["json"] == {}
    assert "json" not in evict_stream("gate-7").arguments()


def test_a_balancer_finds_who_has_the_stream_that_a_request_is_about():
    assert read_audit_of_stream("gate-7@2").headers == {"X-Stream-Id": "gate-7"}


@settings(max_examples=20, deadline=None)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(1), st.just(2), st.just(2)))
    | arrays(np.float64, st.tuples(st.integers(1, 3), st.just(1), st.just(2), st.just(2)), elements=st.floats(0, 1))
)
def test_the_server_reads_the_array_that_was_sent(images):
    asked = infer("tiny", images.transpose(0, 1, 3, 2), "gate-7", "frame-1")  # not contiguous

    found = parse(asked.content, Expected((1, 2, 2), 3, ("a",), "a", 4), asked.headers[calls.HEADER]).images.read()

    expected = images if images.dtype == np.uint8 else images.astype(np.float32)
    assert np.array_equal(found, expected.transpose(0, 1, 3, 2))
    assert (asked.headers["X-Stream-Id"], asked.headers["X-Request-Id"]) == ("gate-7", "frame-1")


def test_files_are_given_by_path_or_content(tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")

    asked = predict([tmp_path / "a.png", str(tmp_path / "a.png"), b"two"], top_k=2)

    assert asked.files == [("image", ("a.png", b"one"))] * 2 + [("image", ("image-3", b"two"))]
    assert (asked.params, asked.headers) == ({"top_k": 2}, {})
    assert predict(b"one").files == [("image", ("image-1", b"one"))]
