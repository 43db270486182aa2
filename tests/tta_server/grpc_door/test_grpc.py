"""gRPC by somebody else's client, and by none: the same answers and the same refusals as over HTTP."""

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from tests.server import running
from tests.tta_server import pictures
from tests.tta_server.calls import INFER, UNGUARDED, body, glyph_images, noise
from tests.tta_server.issuer import AUDIENCE, ISSUER, Issuer, write_jwks
from tests.tta_server.triton_refusals import refusals, refused
from tta_server.grpc_door.messages import HEALTH, INFERENCE, message, methods
from tta_server.keys.new_key import new_key

ROWS = 4
BODY_BYTES = 2**20
FROZEN = {"stream_id": "frozen"}


class Reached(NamedTuple):
    """A server with both doors, and a caller who may do everything.

    Attributes:
        http: A client over HTTP.
        address: For gRPC.
        headers: With the key.
        weak: With a token that may ask for predictions of one stream.
    """

    http: httpx.Client
    address: str
    headers: dict[str, str]
    weak: dict[str, str]


@pytest.fixture(scope="module")
def reached(tmp_path_factory) -> Iterator[Reached]:
    folder: Path = tmp_path_factory.mktemp("grpc")
    keys = folder / "keys.yaml"
    strong, _ = new_key(keys, {"name": "strong", "scopes": ["admin"], "streams": ["*"]})
    issuer = Issuer()
    weak = issuer.token(sub="weak", tta_streams=["frozen"])
    config = {
        "server": {"grpc_port": 0},
        "model": {"device": "cpu"},
        # Every request fills a forward, so that all forwards have one shape and answers can be compared bit for bit.
        "engine": {"max_rows": ROWS, "max_queue_rows": 16, "stack_rows": 0},
        "guard": UNGUARDED,
        "streams": {"named": {"frozen": {"mode": "off"}}},
        "auth": {
            "keys_file": str(keys),
            "jwt_keys_file": str(write_jwks(folder / "jwks.json", issuer)),
            "jwt_audience": AUDIENCE,
            "jwt_issuer": ISSUER,
        },
        "limits": {"max_body_bytes": BODY_BYTES, "max_receiving_bytes": BODY_BYTES},  # one message at a time
    }
    with running(folder, config, forked=False) as server:
        port = re.search(r"port (\d+)", (folder / "server.log").read_text(errors="replace"))
        headers, others = ({"authorization": f"Bearer {key}"} for key in (strong, weak))
        server.client.headers.update(headers)
        address = f"127.0.0.1:{port[1]}"
        with grpc.insecure_channel(address) as channel:
            yield Reached(server.client, address, headers, others)
            stalled(channel, headers)  # nobody's silence holds up the end
    assert server.process.returncode == 0


@pytest.fixture(scope="module")
def client(reached: Reached) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(reached.address) as client:
        yield client


def stalled(channel: grpc.Channel, headers: dict[str, str]) -> grpc.Future:
    """Begin a call whose message never comes."""
    call = channel.stream_unary(f"/{INFERENCE}/ModelInfer", request_serializer=bytes)
    return call.future(iter(threading.Event().wait, None), metadata=tuple(headers.items()))


def tensor_of(images: np.ndarray, datatype: str = "UINT8") -> triton.InferInput:
    tensor = triton.InferInput("input", list(images.shape), datatype)
    tensor.set_data_from_numpy(images)
    return tensor


def call(reached: Reached, name: str, data: bytes, service: str = INFERENCE, headers: dict | None = None) -> object:
    """Send the bytes of a message, and return the answer."""
    answer = methods(service)[name][1]
    metadata = tuple((reached.headers if headers is None else headers).items())
    with grpc.insecure_channel(reached.address) as channel:
        ask = channel.unary_unary(
            f"/{service}/{name}", request_serializer=bytes, response_deserializer=answer.FromString
        )
        return ask(data, metadata=metadata, timeout=60)


def request_of(images: np.ndarray, **changes: object) -> object:
    """Return a request with its values in `contents`."""
    field = "uint_contents" if images.dtype == np.uint8 else "fp32_contents"
    tensor = {
        "name": "input",
        "datatype": "UINT8" if images.dtype == np.uint8 else "FP32",
        "shape": images.shape,
        "contents": {field: images.ravel().tolist()},
    }
    parameters = {"stream_id": {"string_param": "frozen"}}
    known = {"model_name": "glyphs", "parameters": parameters, "inputs": [tensor | changes]}
    return message("inference.ModelInferRequest")(**known)


def over_http(reached: Reached, images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return probabilities and labels as HTTP gives them."""
    response = reached.http.post(INFER, content=body(images), headers={"X-Stream-Id": "frozen"})
    scores, labels = response.json()["outputs"]
    return np.float32(scores["data"]), labels["data"]


def test_tritonclient_finds_the_server_and_the_model(client, reached):
    head = {"headers": reached.headers}

    assert client.is_server_live(**head)
    assert client.is_server_ready(**head)
    assert client.is_model_ready("glyphs", "1", **head)
    assert not client.is_model_ready("nobody", **head)  # as Triton says, and as HTTP is understood
    assert not client.is_model_ready("glyphs", "2", **head)
    for ours, theirs in (
        (client.get_server_metadata(as_json=True, **head), "/v2"),
        (client.get_model_metadata("glyphs", as_json=True, **head), "/v2/models/glyphs"),
    ):
        told = reached.http.get(theirs).json()
        assert ours.keys() == told.keys()
        assert ours["name"] == told["name"]
    config = client.get_model_config("glyphs", **head).config
    assert (config.max_batch_size, config.backend, list(config.input[0].dims)) == (ROWS, "tta-server", [3, 32, 32])
    assert [(each.name, each.state) for each in client.get_model_repository_index(**head).models] == [
        ("glyphs", "READY")
    ]


@pytest.mark.parametrize(("datatype", "scale"), [("UINT8", 1), ("FP32", 255)])
def test_an_answer_is_the_one_that_http_gives(client, reached, datatype, scale):
    images = glyph_images(40, ROWS)
    sent = images if scale == 1 else (images / scale).astype(np.float32)

    result = client.infer(
        "glyphs", [tensor_of(sent, datatype)], "1", request_id="7", parameters=FROZEN, headers=reached.headers
    )
    written = call(reached, "ModelInfer", request_of(sent).SerializeToString())

    scores, labels = over_http(reached, images)
    # Pixels / 255 differ in the last bit from the server's own division.
    np.testing.assert_allclose(result.as_numpy("probabilities").ravel(), scores, atol=0 if scale == 1 else 1e-5)
    assert [each.decode() for each in result.as_numpy("label")] == labels
    assert (result.get_response().id, result.get_response().parameters["request_id"].string_param) == ("7", "7")
    assert list(written.outputs[0].contents.fp32_contents) == result.as_numpy("probabilities").ravel().tolist()
    assert list(written.outputs[1].contents.bytes_contents) == result.as_numpy("label").tolist()
    assert not written.raw_output_contents


def test_image_files_and_the_best_classes(client, reached):
    files = [pictures.encoded(Image.fromarray(image.transpose(1, 2, 0))) for image in glyph_images(8, 2)]
    tensor = triton.InferInput("image", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_).reshape(2, 1))
    wanted = [triton.InferRequestedOutput("label"), triton.InferRequestedOutput("probabilities", class_count=2)]

    result = client.infer("glyphs", [tensor], outputs=wanted, parameters=FROZEN, headers=reached.headers)

    parts = [("image", ("a.png", file)) for file in files]
    expected = reached.http.post("/predict", files=parts, headers={"X-Stream-Id": "frozen"}).json()["predictions"]
    assert [each.decode() for each in result.as_numpy("label")] == [each["label"] for each in expected]
    best = [row[0].decode().split(":")[2] for row in result.as_numpy("probabilities")]
    assert best == [each["label"] for each in expected]


def test_the_asynchronous_clients_get_the_same_answer_and_statistics_count_it(client, reached):
    images = glyph_images(0, ROWS)
    asked = {"parameters": FROZEN, "headers": reached.headers}
    done: list = []

    def count() -> int:
        found = client.get_inference_statistics("glyphs", headers=reached.headers).model_stats[0]
        return found.inference_stats.success.count

    async def ask() -> np.ndarray:
        async with aio.InferenceServerClient(reached.address) as waiting:
            assert await waiting.is_server_ready()
            return (await waiting.infer("glyphs", [tensor_of(images)], **asked)).as_numpy("probabilities")

    before = count()
    found = asyncio.run(ask())
    ready = threading.Event()
    client.async_infer("glyphs", [tensor_of(images)], lambda result, error: (done.append(result), ready.set()), **asked)
    assert ready.wait(60)

    assert np.array_equal(found.ravel(), over_http(reached, images)[0])
    assert np.array_equal(done[0].as_numpy("probabilities"), found)
    assert count() == before + 3  # HTTP's too


def test_probes_are_answered_without_a_key(reached):
    ask = message("grpc.health.v1.HealthCheckRequest")

    status = [
        call(reached, "Check", ask(service=name).SerializeToString(), HEALTH, {}).status for name in ("", INFERENCE)
    ]
    named = call(reached, "Check", ask(service="glyphs").SerializeToString(), HEALTH)

    assert [*status, named.status] == [1, 1, 1]


GOOD = noise(1)
REFUSALS = refusals(ROWS)
HOSTILE = message("inference.ModelInferRequest")(model_name="glyphs", outputs=[{}] * 5000).SerializeToString()
REFUSED = {
    "unknown model": (request_of(GOOD), {"model_name": "x/ready"}, "NOT_FOUND", "unknown model 'x%2Fready'"),
    "no model": (request_of(GOOD), {"model_name": ""}, "INVALID_ARGUMENT", "names no model"),
    "unknown version": (request_of(GOOD), {"model_version": "9"}, "NOT_FOUND", "unknown version '9'"),
    "shape": (request_of(GOOD[:, :, 1:]), {}, "INVALID_ARGUMENT", r"shape [1, 3, 31, 32], expected [N, 3, 32, 32]"),
    "too few": (request_of(GOOD, shape=[2, 3, 32, 32]), {}, "INVALID_ARGUMENT", "3072 bytes of binary data, expected"),
    "no such value": (request_of(GOOD, contents={"uint_contents": [256] * 3072}), {}, "INVALID_ARGUMENT", "value 256"),
    "datatype": (request_of(GOOD, datatype="INT32"), {}, "INVALID_ARGUMENT", "datatype 'INT32', expected FP32"),
    "twice": (request_of(GOOD), {"raw_input_contents": [b"x"]}, "INVALID_ARGUMENT", "'contents' in each input"),
    "fields": (HOSTILE, {}, "INVALID_ARGUMENT", "more than 4096 fields"),
    "no message": (b"\xff" * 9, {}, "INVALID_ARGUMENT", "no inference.ModelInferRequest"),
    "large": (b"\x3a" + bytes(2 * BODY_BYTES), {}, "RESOURCE_EXHAUSTED", ""),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_refused_in_words(reached, what):
    sent, changes, code, said = REFUSED[what]
    if not isinstance(sent, bytes):
        sent = message("inference.ModelInferRequest").FromString(sent.SerializeToString())
        sent.MergeFrom(type(sent)(**changes))
        for name in (name for name, value in changes.items() if not value):
            sent.ClearField(name)
        sent = sent.SerializeToString()

    with pytest.raises(grpc.RpcError) as raised:
        call(reached, "ModelInfer", sent)

    assert (raised.value.code().name, said in raised.value.details()) == (code, True), raised.value.details()


def test_a_call_for_an_unknown_model_counts_for_no_other(client, reached):
    def failed() -> int:
        found = client.get_inference_statistics(headers=reached.headers).model_stats
        return sum(each.inference_stats.fail.count for each in found)

    before = failed()
    with pytest.raises(grpc.RpcError):
        call(reached, "ModelInfer", message("inference.ModelInferRequest")(model_name="nope").SerializeToString())

    assert failed() == before


@pytest.mark.parametrize("what", REFUSALS)
def test_tritonclient_can_read_what_was_wrong(reached, client, what):
    wrong = REFUSALS[what]

    error = refused(triton, client, wrong, headers=reached.headers)

    assert (error.status(), wrong.said in error.message()) == (f"StatusCode.{wrong.code}", True), error


@pytest.mark.parametrize("rows", range(1, ROWS + 1))
def test_the_asynchronous_client_gets_values_and_classes_of_any_number_of_images(reached, rows):
    images = glyph_images(12, rows)

    async def ask() -> tuple[np.ndarray, np.ndarray]:
        async with aio.InferenceServerClient(reached.address) as waiting:
            asked = {"model_name": "glyphs", "inputs": [tensor_of(images)], "parameters": FROZEN}
            scores = await waiting.infer(**asked, headers=reached.headers)
            wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
            best = await waiting.infer(**asked, outputs=wanted, headers=reached.headers)
            return scores.as_numpy("probabilities"), best.as_numpy("probabilities")

    scores, best = asyncio.run(ask())

    expected, labels = over_http(reached, images)
    assert np.array_equal(scores.ravel(), expected)
    assert [row[0].decode().split(":")[2] for row in best] == labels
    assert best.shape == (rows, 2)


def test_keys_open_what_they_open_over_http(reached, client):
    with pytest.raises(InferenceServerException, match="with a key only"):
        client.infer("glyphs", [tensor_of(GOOD)], parameters=FROZEN)
    with pytest.raises(InferenceServerException, match="not for 'other'"):
        client.infer("glyphs", [tensor_of(GOOD)], parameters={"stream_id": "other"}, headers=reached.weak)
    with pytest.raises(InferenceServerException, match="this takes 'read'") as refused:
        client.get_inference_statistics("glyphs", headers=reached.weak)

    assert refused.value.status() == "StatusCode.PERMISSION_DENIED"
    assert client.infer("glyphs", [tensor_of(GOOD)], parameters=FROZEN, headers=reached.weak)


def test_a_stream_that_is_named_twice_is_refused_as_over_http(reached):
    metadata = (*reached.headers.items(), ("x-stream-id", "one"), ("x-stream-id", "two"))
    with grpc.insecure_channel(reached.address) as channel:
        ask = channel.unary_unary(f"/{INFERENCE}/ModelInfer", request_serializer=bytes)

        with pytest.raises(grpc.RpcError) as raised:
            ask(request_of(GOOD).SerializeToString(), metadata=metadata, timeout=60)

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details() == "the header 'x-stream-id' is there more than once"


def test_a_message_that_never_comes_makes_room_for_one_that_does(reached, client):
    with grpc.insecure_channel(reached.address) as channel:
        silent = [stalled(channel, reached.headers) for _ in range(3)]

        answered = client.infer("glyphs", [tensor_of(GOOD)], parameters=FROZEN, headers=reached.headers)

        assert answered.as_numpy("label").shape == (1,)
        assert [each.exception().code().name for each in silent] == ["DEADLINE_EXCEEDED"] * 3


def test_errors_carry_their_code_and_the_name_of_the_request(reached):
    named = reached.headers | {"x-request-id": "frame-1"}

    with pytest.raises(grpc.RpcError) as raised:
        call(reached, "ModelInfer", request_of(GOOD[:, :, 1:]).SerializeToString(), headers=named)

    told = dict(raised.value.trailing_metadata())
    assert (told["x-request-id"], told["x-error-code"]) == ("frame-1", "bad_request")
