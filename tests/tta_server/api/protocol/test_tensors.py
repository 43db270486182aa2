"""The Open Inference Protocol's JSON becomes images, or an error that says what is wrong with it."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tta_server.api.protocol import number_text
from tta_server.api.protocol.tensors import Expected, InferRequest, WantedOutput, parse
from tta_server.errors import BadRequest, TTAError

SHAPE = (3, 2, 2)
OUTPUTS = ("probabilities", "label")
EXPECTED = Expected(SHAPE, 4, OUTPUTS, "probabilities", 5)
BOTH = (WantedOutput("probabilities", False, 0), WantedOutput("label", False, 0))
VALUES = [i / 24 for i in range(24)]
MISFIT = "does not fit shape [2, 3, 2, 2]; expected 24 numbers, nested evenly or flat"


def tensor(**changes: object) -> dict:
    """Return a good input, with changes; a key set to `...` is left out."""
    good = {"name": "input", "datatype": "FP32", "shape": [2, *SHAPE], "data": VALUES}
    return {key: value for key, value in (good | changes).items() if value is not ...}


def read(body: object, max_rows: int = 4) -> InferRequest:
    return parse(body if isinstance(body, bytes) else json.dumps(body).encode(), EXPECTED._replace(max_rows=max_rows))


def images(**changes: object) -> np.ndarray:
    return read({"inputs": [tensor(**changes)]}).images.read()


def test_flat_data_is_row_major():
    expected = np.array(VALUES, np.float32).reshape(2, *SHAPE)

    assert np.array_equal(images(), expected)
    assert images().dtype == np.float32


def test_nested_data_is_the_same_as_flat_data():
    nested = np.array(VALUES).reshape(2, *SHAPE).tolist()

    assert np.array_equal(images(data=nested), images())


def test_uint8_stays_bytes():
    found = images(datatype="UINT8", data=list(range(232, 256)))

    assert found.dtype == np.uint8
    assert found.reshape(-1).tolist() == list(range(232, 256))


def test_whole_numbers_may_be_written_with_a_point():
    assert images(datatype="UINT8", data=[float(i) for i in range(24)]).dtype == np.uint8


def test_the_rest_of_a_request_is_passed_on():
    request = read(
        {
            "id": "7",
            "parameters": {"stream_id": "door", "priority": 1},
            "inputs": [tensor()],
            "outputs": [{"name": "label", "parameters": {"binary_data": False}}],
        }
    )

    assert (request.request_id, request.outputs) == ("7", BOTH[1:])
    assert request.parameters == {"stream_id": "door", "priority": 1}


def test_what_is_left_out_is_empty():
    request = read({"inputs": [tensor()]})

    assert (request.request_id, request.parameters, request.outputs) == (None, {}, BOTH)


def test_a_value_that_a_float_round_trip_moved_is_accepted():
    assert images(data=[1 + 1e-7, -1e-7, *VALUES[2:]]).shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "x"}, "unexpected input 'x'; the model takes 'input' (pixels), 'image' (files)"),
        ({"name": "image"}, "'image' has datatype 'FP32', expected BYTES"),
        ({"name": "image", "datatype": "BYTES", "shape": [1, 2]}, "expected [N] or [N, 1]"),
        ({"name": "image", "datatype": "BYTES", "shape": [5]}, "input has 5 images, expected 1 to 4"),
        ({"name": "image", "datatype": "BYTES", "shape": [1]}, "takes binary data only"),
        ({"parameters": {"binary_data_size": 24}}, "both 'data' and 'binary_data_size'"),
        ({"data": ..., "parameters": {"binary_data_size": 96}}, "header Inference-Header-Content-Length is missing"),
        ({"name": ...}, "unexpected input 'None'"),
        ({"datatype": "FP64"}, "datatype 'FP64', expected FP32"),
        ({"datatype": ...}, "datatype 'None'"),
        ({"datatype": []}, "datatype"),
        ({"datatype": {"FP32": 1}}, "datatype"),
        ({"shape": ...}, "expected [N, 3, 2, 2]; send channels first"),
        ({"shape": [2, 2, 2, 3]}, "shape [2, 2, 2, 3], expected [N, 3, 2, 2]"),
        ({"shape": [2, 12]}, "shape [2, 12]"),
        ({"shape": [2, 3, 2, 2, 1]}, "expected [N, 3, 2, 2]"),
        ({"shape": [2, 3.0, 2, 2]}, "expected [N, 3, 2, 2]"),
        ({"shape": [True, 3, 2, 2]}, "expected [N, 3, 2, 2]"),
        ({"shape": ["2", 3, 2, 2]}, "expected [N, 3, 2, 2]"),
        ({"shape": "2322"}, "expected [N, 3, 2, 2]"),
        ({"shape": [0, 3, 2, 2], "data": []}, "input has 0 images, expected 1 to 4"),
        ({"shape": [-2, 3, 2, 2]}, "input has -2 images"),
        ({"shape": [5, 3, 2, 2]}, "input has 5 images, expected 1 to 4"),
        ({"shape": [10**12, 3, 2, 2]}, "expected 1 to 4"),
        ({"data": ...}, "input has no 'data'"),
        ({"data": {}}, "input has no 'data'"),
        ({"data": "0" * 24}, "input has no 'data'"),
        ({"data": VALUES[1:]}, MISFIT),
        ({"data": [*VALUES, 0]}, MISFIT),
        ({"data": [VALUES]}, MISFIT),
        ({"data": [VALUES[:12], VALUES[12:]]}, MISFIT),
        ({"data": [VALUES[:11], VALUES[11:]]}, MISFIT),
        ({"data": [[[[[0]]]]]}, MISFIT),
        ({"data": [None, *VALUES[1:]]}, "numbers only"),
        ({"data": ["0.5", *VALUES[1:]]}, "numbers only"),
        ({"data": ["0.5"] * 24}, "numbers only"),
        ({"data": [True] * 24}, "numbers only"),
        ({"data": [{}] * 24}, "numbers only"),
        ({"data": [[[]]]}, "does not fit"),
        ({"data": [2.0, *VALUES[1:]]}, "values in [0.0416667, 2], expected [0, 1]; send pixels / 255"),
        ({"data": [-0.1, *VALUES[1:]]}, "expected [0, 1]"),
        ({"data": [1e308, -1e308, *VALUES[2:]]}, "expected [0, 1]"),
        ({"data": [10**30, *VALUES[1:]]}, "expected [0, 1]"),
        ({"datatype": "UINT8"}, "expected whole numbers in [0, 255]"),
        ({"datatype": "UINT8", "data": [256, *[0] * 23]}, "values in [0, 256], expected whole numbers"),
        ({"datatype": "UINT8", "data": [-1, *[0] * 23]}, "values in [-1, 0], expected whole numbers"),
        ({"parameters": 3}, "'parameters' must be an object"),
    ],
)
def test_a_wrong_tensor_is_told_what_would_be_right(changes, said):
    with pytest.raises(BadRequest) as error:
        images(**changes)

    assert said in str(error.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"\xff\xd8\xff", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (json.dumps({"inputs": [tensor(data=[float("nan")] * 24)]}).encode(), "NaN and Infinity are none"),
        (json.dumps({"inputs": [tensor(data=[float("inf")] * 24)]}).encode(), "NaN and Infinity are none"),
        (json.dumps({"inputs": [tensor()]}).replace("[0.0,", "[1e999,").encode(), "numbers only"),
        ([], "must be a JSON object"),
        (None, "must be a JSON object"),
        ({}, "'inputs' must be a list of one tensor"),
        ({"inputs": []}, "'inputs' must be a list of one tensor"),
        ({"inputs": {}}, "'inputs' must be a list of one tensor"),
        ({"inputs": [3]}, "'inputs' must be a list of one tensor"),
        ({"inputs": [tensor(), tensor()]}, "'inputs' must be a list of one tensor"),
        ({"inputs": [tensor()], "id": 7}, "'id' must be a string"),
        ({"inputs": [tensor()], "parameters": []}, "'parameters' must be an object"),
        ({"inputs": [tensor()], "outputs": {}}, "'outputs' must be a list"),
        ({"inputs": [tensor()], "outputs": None}, "'outputs' must be a list"),
        ({"inputs": [tensor()], "outputs": ["label"]}, "'outputs' must be a list"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "unexpected output 'logits'; the model gives"),
        ({"inputs": [tensor()], "outputs": [{}]}, "unexpected output 'None'"),
        ({"inputs": [tensor()], "outputs": [{"name": "label"}] * 2}, "output 'label' is asked for more than once"),
        ({"inputs": [tensor()], "outputs": [{"name": "label"}] * 10_000}, "more than 65536 bytes beside the 'data'"),
    ],
)
def test_a_wrong_request_is_told_what_would_be_right(body, said):
    with pytest.raises(BadRequest) as error:
        read(body).images.read()

    assert said in str(error.value)


def binary(values: bytes, length: str | None = None, **changes: object) -> InferRequest:
    """Read a request whose tensor follows the JSON."""
    sent = tensor(data=..., parameters={"binary_data_size": len(values)})
    head = json.dumps({"inputs": [sent | changes]}).encode()
    return parse(head + values, EXPECTED, str(len(head)) if length is None else length)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.sampled_from(["FP32", "UINT8"]), st.integers(0, 100))
def test_bytes_and_numbers_give_the_same_images(rows, datatype, seed):
    random = np.random.default_rng(seed)
    shape = (rows, *SHAPE)
    values = random.integers(0, 256, shape, np.uint8) if datatype == "UINT8" else random.random(shape, np.float32)

    found = binary(values.tobytes(), datatype=datatype, shape=list(shape)).images

    assert found.decoded_bytes == values.nbytes
    assert np.array_equal(found.read(), values)
    assert found.read().dtype == values.dtype
    if rows == 1:
        assert np.array_equal(parse(values.tobytes(), EXPECTED, "0").images.read(), values)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4), st.booleans())
def test_files_come_out_as_they_went_in(files, nested):
    sent = b"".join(len(file).to_bytes(4, "little") + file for file in files)
    shape = [len(files), 1] if nested else [len(files)]

    found = binary(sent, name="image", datatype="BYTES", shape=shape)

    assert [upload.data for upload in found.images] == files
    assert found.rows == len(files)


@pytest.mark.parametrize(
    ("said", "values", "length", "changes"),
    [
        ("input has 95 bytes of binary data, expected 96 for FP32 [2, 3, 2, 2]", b"x" * 95, None, {}),
        ("is 'abc', expected a number of bytes in [0,", b"", "abc", {}),
        ("is '9999', expected a number of bytes in [0,", b"", "9999", {}),
        ("is '-1', expected a number", b"", "-1", {}),
        ("expected 48 (FP32) or 12 (UINT8) bytes, got", b"", "0", {}),
        ("'binary_data_size' is 95, but 96 bytes follow", b"x" * 96, None, {"parameters": {"binary_data_size": 95}}),
        ("'binary_data_size' is True", b"x", None, {"parameters": {"binary_data_size": True}}),
        ("96 bytes follow the JSON, but no input has", b"x" * 96, None, {"parameters": {}}),
        ("expected [0, 1]", b"\xff" * 96, None, {}),
        ("image 2 of 2 ends behind", b"\1\0\0\0x\2\0\0\0x", None, {"name": "image", "datatype": "BYTES", "shape": [2]}),
        ("image 1 of 1 ends behind", b"\1\0", None, {"name": "image", "datatype": "BYTES", "shape": [1]}),
        ("1 bytes behind its 1 images", b"\0\0\0\0x", None, {"name": "image", "datatype": "BYTES", "shape": [1]}),
    ],
)
def test_wrong_bytes_are_told_what_would_be_right(said, values, length, changes):
    with pytest.raises(BadRequest) as error:
        binary(values, length, **changes).images.read()

    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("label", {"classification": 1}, "ask for it with 'probabilities'"),
        ("probabilities", {"classification": 6}, "'classification' is 6, expected 1 to 5"),
        ("probabilities", {"classification": 0}, "expected 1 to 5"),
        ("probabilities", {"classification": True}, "expected 1 to 5"),
        ("label", {"binary_data": 1}, "'binary_data' is 1, expected true or false"),
        ("label", [], "'parameters' must be an object"),
    ],
)
def test_a_wrong_wish_is_told_what_would_be_right(name, parameters, said):
    with pytest.raises(BadRequest) as error:
        read({"inputs": [tensor()], "outputs": [{"name": name, "parameters": parameters}]})

    assert said in str(error.value)


@pytest.mark.parametrize("key", ["name", "datatype", "shape"])
def test_an_error_does_not_echo_a_body(key):
    value = [7] * 100_000 if key == "shape" else "x" * 100_000

    with pytest.raises(BadRequest) as error:
        images(**{key: value})

    assert len(str(error.value)) < 300


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
odd_numbers = st.sampled_from([0, 1, 0.5, True, None, "1", -1, 2**63, 2**64 - 1, 1e300, [], {}])
almost = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("input") | anything,
        "datatype": st.sampled_from(["FP32", "UINT8"]) | anything,
        "shape": st.lists(st.sampled_from([1, 2, 3, 3.0, True, -1, 2**63]), min_size=3, max_size=5)
        | st.just([1, *SHAPE])
        | anything,
        "data": st.lists(odd_numbers, min_size=12, max_size=12)
        | st.lists(st.lists(odd_numbers, max_size=4), max_size=4),
        "parameters": anything,
    },
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "inputs": st.lists(almost, min_size=1, max_size=1) | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(OUTPUTS) | anything}), max_size=3)
        | anything,
        "parameters": anything,
        "id": anything,
    },
)


@settings(max_examples=400, deadline=None)
@given(requests | anything)
def test_no_json_raises_anything_but_an_error_for_the_caller(request):
    try:
        found = read(json.dumps(request).encode()).images.read()
    except TTAError as error:
        assert orjson.dumps(str(error))  # noqa: PT017 (either outcome is right; an error must be sendable)
        return
    assert found.shape[1:] == SHAPE
    assert np.isfinite(found).all()


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_an_error_for_the_caller(body):
    with pytest.raises(BadRequest):
        parse(body, EXPECTED)


WHOLE = list(range(24))
NESTED = np.array(WHOLE).reshape(2, *SHAPE).tolist()


@pytest.mark.parametrize(
    "text",
    ["5" + json.dumps(NESTED)[1:], json.dumps(NESTED).replace("]]]]", "]]]7]"), json.dumps(WHOLE)[:-1] + ",]",
     json.dumps(WHOLE).replace("1,", ",", 1), json.dumps(WHOLE).replace("1,", "1 1,", 1), "[" + "[]," * 23 + "[]]",
     json.dumps(NESTED).replace("[0, 1]", "[0], 1", 1), json.dumps(NESTED).replace("[0, 1], [2", "[0, 1, [2]", 1)],
)  # fmt: skip
def test_text_that_only_looks_like_the_list_is_refused(text):
    body = json.dumps({"inputs": [tensor(datatype="UINT8", data="DATA")]}).replace('"DATA"', text)

    with pytest.raises(BadRequest):
        read(body.encode()).images.read()


@given(st.integers(1, 4), st.integers(60, 200), st.booleans(), st.sampled_from([None, 1]))
def test_values_are_read_as_json_reads_them_however_they_are_cut(rows, piece_bytes, nested, indent):
    values = np.random.default_rng(rows).random((rows, *SHAPE))
    data = (values if nested else values.ravel()).tolist()
    sent = json.dumps({"inputs": [tensor(shape=list(values.shape), data=data)]}, indent=indent)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(number_text, "_PIECE_BYTES", piece_bytes)
        found = parse(sent.encode(), EXPECTED).images.read()

    assert np.array_equal(found, values.astype(np.float32))


def test_other_lists_called_data_are_not_taken_for_the_images():
    sent = {"parameters": {"data": [1] * 24}, "inputs": [tensor()]}

    with pytest.raises(BadRequest, match="'data'"):
        parse(json.dumps(sent).encode(), EXPECTED).images.read()
