"""What a request of the Open Inference Protocol may leave out, it leaves out: null is no value of it."""

import json

import pytest

from tests.tta_server.api.protocol.test_tensors import EXPECTED, read, tensor
from tta_server.api.protocol.tensors import parse
from tta_server.errors import BadRequest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id": None}, "'id' must be a string"),
        ({"parameters": None}, "'parameters' must be an object"),
        ({"outputs": None}, "'outputs' must be a list"),
        ({"outputs": [{"name": "label", "parameters": None}]}, "'parameters' must be an object"),
        ({"parameters": {"stream_id": None}}, "parameter 'stream_id' is null; leave it out"),
        ({"parameters": {"sequence_id": None}}, "parameter 'sequence_id' is null"),
        ({"parameters": {"anything": None}}, "parameter 'anything' is null"),
        ({"parameters": {"binary_data_output": None}}, "parameter 'binary_data_output' is null"),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": None}}]}, "parameter 'binary_data' is null"),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": None}}]}, "is null"),
        ({"inputs": [tensor(parameters=None)]}, "'parameters' must be an object"),
        ({"inputs": [tensor(parameters={"binary_data_size": None})]}, "parameter 'binary_data_size' is null"),
        ({"inputs": [tensor(data=None)]}, "input has no 'data'"),
    ],
)
def test_null_is_refused_wherever_it_stands(changes, said):
    with pytest.raises(BadRequest) as error:
        parse(json.dumps({"inputs": [tensor()]} | changes).encode(), EXPECTED)

    assert said in str(error.value)


def test_what_is_left_out_or_empty_is_taken():
    found = read({"inputs": [tensor(parameters={})], "id": "", "parameters": {"stream_id": ""}, "outputs": []})

    assert (found.request_id, found.parameters) == ("", {"stream_id": ""})
