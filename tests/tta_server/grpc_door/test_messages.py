"""The messages are the standard's, and what they say is said to the application alike however it is written."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import DecodeError
from hypothesis import given, settings, strategies
from tritonclient.grpc import model_config_pb2, service_pb2

from tta_server.errors import BadRequest, TooLarge
from tta_server.grpc_door import fields
from tta_server.grpc_door.messages import DESCRIPTORS, INFERENCE, message, methods
from tta_server.grpc_door.tensors import infer_body

ROOM = Path(fields.__file__).parent
REQUEST = message("inference.ModelInferRequest")
RAW = REQUEST.DESCRIPTOR.fields_by_name["raw_input_contents"].number
CONTENTS = message("inference.InferTensorContents").DESCRIPTOR


def test_the_descriptors_are_what_protoc_makes_of_the_files(tmp_path):
    made = tmp_path / DESCRIPTORS
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--descriptor_set_out={made}"]
    subprocess.run([*command, "inference.proto", "health.proto"], cwd=ROOM, check=True)

    kept, new = (FileDescriptorSet.FromString(path.read_bytes()) for path in (ROOM / DESCRIPTORS, made))
    assert kept == new


def test_every_field_has_the_number_and_the_type_that_other_clients_know():
    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    waiting = [kind.DESCRIPTOR for kinds in methods(INFERENCE).values() for kind in kinds]
    compared = 0

    def compare(ours, other) -> None:
        nonlocal compared
        for field in ours.fields:
            known = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (known.number, known.type, known.is_repeated), field
            compared += 1
            if field.message_type and field.message_type.containing_type:
                compare(field.message_type, known.message_type)
            elif field.message_type:
                waiting.append(field.message_type)
            if field.enum_type:
                assert {each.name: each.number for each in field.enum_type.values}.items() <= {
                    each.name: each.number for each in known.enum_type.values
                }.items()

    while waiting:
        ours = waiting.pop()
        compare(ours, theirs[ours.name])

    assert compared > 100


@settings(max_examples=20, deadline=None)
@given(strategies.integers(1, 40), strategies.sampled_from([np.uint8, np.float32]), strategies.integers(0, 99))
def test_contents_are_the_bytes_that_they_would_be_if_they_were_sent_raw(rows, dtype, seed):
    values = (np.random.default_rng(seed).random((rows, 3, 32, 32)) * 255).astype(dtype)
    kind = "UINT8" if dtype is np.uint8 else "FP32"
    tensor = {"name": "input", "datatype": kind, "shape": values.shape}
    field = "uint_contents" if dtype is np.uint8 else "fp32_contents"
    without = REQUEST(model_name="m", inputs=[tensor])
    written = REQUEST(model_name="m", inputs=[tensor | {"contents": {field: values.ravel().tolist()}}])

    raw = asyncio.run(infer_body(without, [memoryview(values.tobytes())]))
    contents = asyncio.run(infer_body(written, []))
    assert (b"".join(raw.body), raw.headers) == (b"".join(contents.body), contents.headers)


@settings(max_examples=100, deadline=None)
@given(
    strategies.lists(
        strategies.one_of(
            strategies.binary(max_size=300).map(lambda value: {"raw_input_contents": [value]}),
            strategies.text(max_size=200).map(lambda value: {"id": value}),
            strategies.lists(strategies.integers(0, 2**40), max_size=9).map(
                lambda value: {"inputs": [{"shape": value}]}
            ),
        ),
        max_size=9,
    )
)
def test_values_that_are_kept_apart_are_those_of_the_message_wherever_they_are(pieces):
    made = b"".join(REQUEST(**each).SerializeToString() for each in pieces)

    rest, raw = fields.values_apart(made, RAW)

    whole = REQUEST.FromString(made)
    assert raw == list(whole.raw_input_contents)
    whole.ClearField("raw_input_contents")
    assert REQUEST.FromString(rest) == whole


def taken_apart(data: bytes) -> object | None:
    """Return the message that the door makes of these bytes, with its raw contents; None if it refuses them."""
    try:
        fields.expect_few_fields(data, REQUEST.DESCRIPTOR)
        rest, raw = fields.values_apart(data, RAW)
        found = REQUEST.FromString(rest)
    except (BadRequest, DecodeError):
        return None
    assert not found.raw_input_contents
    found.raw_input_contents.extend(map(bytes, raw))
    return found


def parsed(data: bytes) -> object | None:
    try:
        return REQUEST.FromString(data)
    except DecodeError:
        return None


WHOLE = REQUEST(
    model_name="glyphs",
    parameters={"stream_id": {"string_param": "a"}, "n": {"int64_param": 7}},
    inputs=[{"name": "x", "shape": [1, 300], "contents": {"uint_contents": [1, 300]}}],
    raw_input_contents=[b"abc", bytes(200)],
).SerializeToString()


@settings(max_examples=500, deadline=None)
@given(strategies.data())
def test_a_message_with_a_fault_is_refused_or_is_what_protobuf_makes_of_it(data):
    place = data.draw(strategies.integers(0, len(WHOLE)))
    inside = data.draw(strategies.one_of(strategies.just(b""), strategies.binary(max_size=10)))
    goes_on = data.draw(strategies.integers(place, min(len(WHOLE), place + 3)) | strategies.just(len(WHOLE)))

    found = taken_apart(WHOLE[:place] + inside + WHOLE[goes_on:])

    assert found is None or found == parsed(WHOLE[:place] + inside + WHOLE[goes_on:])


def test_a_message_that_is_cut_off_is_refused_where_protobuf_refuses_it():
    cut = [WHOLE[:place] for place in range(len(WHOLE))]

    assert [taken_apart(each) for each in cut] == [parsed(each) for each in cut]


@pytest.mark.parametrize(
    "head", [b"\x3a\x80\x80\x80\x01", b"\xba\x80\x80\x80\x80\x00\x03"], ids=["its length", "its tag"]
)
def test_raw_contents_that_are_not_as_they_say_are_refused(head):
    assert parsed(head + b"abc") is None
    assert taken_apart(head + b"abc") is None


@settings(max_examples=30, deadline=None)
@given(strategies.integers(0, 30), strategies.integers(0, 30), strategies.integers(0, 30))
def test_fields_are_counted_wherever_they_are(inputs, parameters, elements):
    given = {f"p{place}": {"int64_param": place} for place in range(parameters)}
    tensor = {"name": "x", "shape": [1, 2], "parameters": given, "contents": {"bytes_contents": [b""] * elements}}
    made = REQUEST(inputs=[tensor] * inputs).SerializeToString()
    # Of an input: itself, its name, its shape, its contents; of a parameter: itself, name, value and what that holds.
    exact = inputs * (4 + 4 * parameters + elements)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "MOST_FIELDS", exact)
        fields.expect_few_fields(made, REQUEST.DESCRIPTOR)
        patch.setattr(fields, "MOST_FIELDS", exact - 1)
        if exact:
            with pytest.raises(TooLarge):
                fields.expect_few_fields(made, REQUEST.DESCRIPTOR)


@settings(max_examples=30, deadline=None)
@given(
    strategies.sampled_from([each for each in CONTENTS.fields if each.cpp_type != each.CPPTYPE_STRING]),
    strategies.lists(strategies.integers(0, 2**31 - 1), max_size=50),
    strategies.integers(0, 3),
)
def test_whole_numbers_of_lists_are_counted_whatever_they_are(kind, values, axes):
    given = [value % 2 > 0 for value in values] if kind.cpp_type == kind.CPPTYPE_BOOL else values
    tensor = {"name": "x", "shape": [2**40] * axes, "contents": {kind.name: given}}
    made = REQUEST(inputs=[tensor, tensor]).SerializeToString()
    whole = kind.cpp_type not in (kind.CPPTYPE_FLOAT, kind.CPPTYPE_DOUBLE)  # the others take what they took
    exact = 2 * (len(values) * whole + axes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "MOST_NUMBERS", exact)
        fields.expect_few_fields(made, REQUEST.DESCRIPTOR)
        patch.setattr(fields, "MOST_NUMBERS", exact - 1)
        if exact:
            with pytest.raises(TooLarge, match="send values as raw contents"):
                fields.expect_few_fields(made, REQUEST.DESCRIPTOR)


@pytest.mark.parametrize("odd", [b"\x7b\x7c", b"\x0a\x05\x01"], ids=["a group, which parsers skip", "cut off"])
def test_nothing_goes_uncounted(odd):
    with pytest.raises(BadRequest, match="it is malformed, or has groups"):
        fields.expect_few_fields(odd + REQUEST(inputs=[{"name": "x"}] * 3).SerializeToString(), REQUEST.DESCRIPTOR)
