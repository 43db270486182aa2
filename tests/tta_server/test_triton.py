"""The Open Inference Protocol, by somebody else's client."""

import asyncio
import gzip
import time
import zlib
from collections.abc import Iterator

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from tests.server import Running, running
from tests.tta_server import calls, pictures
from tests.tta_server.calls import INFER, UNGUARDED, infer
from tests.tta_server.triton_refusals import refusals, refused

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    # Every request fills a forward, so that all forwards have one shape and answers can be compared bit for bit.
    "engine": {"max_rows": ROWS, "max_queue_rows": ROWS, "window_rows": 2 * ROWS, "stack_rows": 0, "learn_share": 1},
    "guard": UNGUARDED,
    "streams": {"named": {"frozen": {"mode": "off"}}},
    "repository": {"models": {"second": {"architecture": "glyphs", "device": "cpu"}}},
}


def glyph_images(start: int, count: int = ROWS) -> np.ndarray:
    return calls.glyph_images(start, count)


GOOD = calls.noise(1)
REFUSALS = refusals(ROWS)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("triton"), CONFIG) as started:
        yield started


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


@pytest.fixture(scope="module")
def triton(server: Running) -> Iterator[object]:
    import tritonclient.http as http

    with http.InferenceServerClient(server.url.removeprefix("http://")) as triton:
        yield triton


def test_tritonclient_finds_the_server_and_the_model(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("glyphs")
    assert triton.is_model_ready("glyphs", "1")
    assert triton.get_server_metadata()["name"] == "tta-server"
    metadata = triton.get_model_metadata("glyphs")
    assert metadata["inputs"] == [
        {"name": "input", "datatype": "FP32", "shape": [-1, 3, 32, 32]},
        {"name": "image", "datatype": "BYTES", "shape": [-1]},
    ]
    assert triton.get_model_config("glyphs")["max_batch_size"] == ROWS
    index = [{"name": name, "version": "1", "state": "READY", "reason": ""} for name in ("glyphs", "second")]
    assert triton.get_model_repository_index() == index
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "label"]


@pytest.mark.parametrize(("datatype", "scale"), [("UINT8", 1), ("FP32", 255)])
def test_tritonclient_gets_the_answer_that_others_get(triton, client, datatype, scale):
    import tritonclient.http as http

    images = glyph_images(40)
    tensor = http.InferInput("input", list(images.shape), datatype)
    tensor.set_data_from_numpy(images if scale == 1 else (images / scale).astype(np.float32), binary_data=False)
    wanted = [http.InferRequestedOutput(name, binary_data=False) for name in ("label", "probabilities")]

    result = triton.infer("glyphs", [tensor], outputs=wanted, request_id="7", parameters={"stream_id": "frozen"})

    expected = infer(client, "frozen", images)
    assert result.get_response()["id"] == "7"
    assert result.get_response()["parameters"]["stream"] == "frozen"
    assert result.as_numpy("label").tolist() == expected["outputs"][1]["data"]
    # JSON keeps float32 exactly; pixels / 255 differ in the last bit from the server's own division.
    np.testing.assert_allclose(result.as_numpy("probabilities").ravel(), expected["outputs"][0]["data"], atol=1e-5)


def test_tritonclient_names_a_stream_by_its_sequence(triton):
    import tritonclient.http as http

    tensor = http.InferInput("input", [1, 3, 32, 32], "UINT8")
    tensor.set_data_from_numpy(GOOD, binary_data=False)

    result = triton.infer("glyphs", [tensor], sequence_id=42)

    assert result.get_response()["parameters"]["stream"] == "42"


def tensor_of(images: np.ndarray, binary: bool, datatype: str = "UINT8") -> object:
    """Return the input of a request."""
    import tritonclient.http as http

    tensor = http.InferInput("input", list(images.shape), datatype)
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def wanted_of(binary: bool | None) -> list | None:
    """Return what is asked for; None asks for everything as bytes."""
    import tritonclient.http as http

    if binary is None:
        return None
    return [http.InferRequestedOutput(name, binary_data=binary) for name in ("probabilities", "label")]


@pytest.mark.parametrize("packed_in", [None, "gzip", "deflate"])
@pytest.mark.parametrize("packed_out", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_however_a_request_is_written_its_answer_is_the_same(
    triton, client, packed_in, packed_out, binary_in, binary_out
):
    images = glyph_images(0)

    result = triton.infer(
        "glyphs",
        [tensor_of(images, binary_in)],
        "1",
        wanted_of(binary_out),
        parameters={"stream_id": "frozen"},
        request_compression_algorithm=packed_in,
        response_compression_algorithm=packed_out,
    )

    expected = infer(client, "frozen", images)["outputs"]
    assert result.as_numpy("probabilities").shape == (ROWS, len(expected[0]["data"]) // ROWS)
    assert result.as_numpy("probabilities").ravel().tolist() == np.float32(expected[0]["data"]).tolist()
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
    assert labels == expected[1]["data"]


def test_image_files_are_read_as_predict_reads_them(triton, client):
    import tritonclient.http as http

    files = [pictures.encoded(Image.fromarray(image.transpose(1, 2, 0))) for image in glyph_images(8, 2)]
    tensor = http.InferInput("image", [2, 1], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_).reshape(2, 1))

    result = triton.infer("glyphs", [tensor], parameters={"stream_id": "frozen"})

    parts = [("image", ("a.png", file)) for file in files]
    expected = client.post("/predict", files=parts, headers={"X-Stream-Id": "frozen"}).json()["predictions"]
    assert [label.decode() for label in result.as_numpy("label")] == [each["label"] for each in expected]


def test_the_best_classes_are_named(triton):
    import tritonclient.http as http

    images = glyph_images(0)
    wanted = [http.InferRequestedOutput("probabilities", binary_data=True, class_count=3)]
    scores = triton.infer("glyphs", [tensor_of(images, True)], parameters={"stream_id": "frozen"})

    best = triton.infer("glyphs", [tensor_of(images, True)], outputs=wanted, parameters={"stream_id": "frozen"})

    rows = best.as_numpy("probabilities")
    assert rows.shape == (ROWS, 3)
    for row, probabilities, label in zip(rows, scores.as_numpy("probabilities"), scores.as_numpy("label"), strict=True):
        value, index, name = row[0].decode().split(":")
        assert (int(index), name) == (int(probabilities.argmax()), label.decode())
        assert value == f"{probabilities.max():f}"


def test_a_request_may_be_the_bytes_of_one_image(client):
    image = glyph_images(3, 1)

    response = client.post(
        INFER, content=image.tobytes(), headers={"Inference-Header-Content-Length": "0", "X-Stream-Id": "frozen"}
    )

    size = int(response.headers["inference-header-content-length"])
    head, behind = orjson.loads(response.content[:size]), response.content[size:]
    expected = infer(client, "frozen", image)["outputs"]
    scores, label = (output["parameters"]["binary_data_size"] for output in head["outputs"])
    assert np.allclose(np.frombuffer(behind[:scores], "<f4"), expected[0]["data"], atol=1e-6)
    assert behind[scores + 4 :].decode() == expected[1]["data"][0]
    assert len(behind) == scores + label


def test_statistics_count_what_was_asked(triton):
    before = triton.get_inference_statistics("glyphs")["model_stats"][0]

    triton.infer("glyphs", [tensor_of(glyph_images(0), True)], parameters={"stream_id": "frozen"})

    after = triton.get_inference_statistics()["model_stats"][0]
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert after["inference_count"] >= before["inference_count"] + ROWS
    assert 0 <= time.time() - after["last_inference"] / 1000 < calls.PATIENCE_S


def test_the_asynchronous_client_gets_the_same_answer(server, triton):
    import tritonclient.http.aio as http

    images = glyph_images(0)

    async def ask() -> np.ndarray:
        async with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            tensor = http.InferInput("input", list(images.shape), "UINT8")
            tensor.set_data_from_numpy(images)
            result = await client.infer("glyphs", [tensor], parameters={"stream_id": "frozen"})
            return result.as_numpy("probabilities")

    found = asyncio.run(ask())
    expected = triton.infer("glyphs", [tensor_of(images, True)], parameters={"stream_id": "frozen"})
    assert np.array_equal(found, expected.as_numpy("probabilities"))
    handle = triton.async_infer("glyphs", [tensor_of(images, True)], parameters={"stream_id": "frozen"})
    assert np.array_equal(found, handle.get_result().as_numpy("probabilities"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_predict_answers_compressed_whom_takes_that(client, encoding):
    files = [("image", (f"{seed}.png", pictures.png(seed=seed))) for seed in range(ROWS)]

    def ask(accepted: str) -> httpx.Response:
        headers = {"Accept-Encoding": accepted, "X-Stream-Id": "frozen", "X-Request-Id": "packed"}
        return client.post("/predict", files=files, headers=headers, params={"top_k": 20})

    plain, packed = ask("identity"), ask(encoding)

    assert (plain.headers.get("content-encoding"), packed.headers["content-encoding"]) == (None, encoding)
    assert int(packed.headers["content-length"]) < len(plain.content)
    assert packed.json() == plain.json()


def gzip_of(size: int) -> bytes:
    """Return a gzip stream of so many bytes."""
    return next(packed for less in range(200) if len(packed := gzip.compress(bytes(size - less), 0)) == size)


@pytest.mark.parametrize(
    ("body", "encoding", "status", "said"),
    [
        (gzip.compress(bytes(64 * 2**20)), "gzip", 413, "the body may have at most"),
        (zlib.compress(bytes(64 * 2**20)), "deflate", 413, "the body may have at most"),
        (b"x" * 100, "gzip", 400, "the body is not gzip"),
        (gzip.compress(b"{}" * 100)[:-4], "gzip", 400, "not one whole gzip stream"),
        (gzip.compress(b"{}") * 2, "gzip", 400, "not one whole gzip stream"),
        (
            gzip_of(2**18) + b"x",
            "gzip",
            400,
            "not one whole gzip stream",
        ),  # whose end is the end of what is opened at once
        (b"x", "br", 501, "'br'; this server reads gzip and deflate"),
    ],
    ids=["gzip bomb", "deflate bomb", "not gzip", "cut off", "twice", "and more", "unknown"],
)
@pytest.mark.parametrize("path", [INFER, "/predict"])
def test_bombs_and_broken_bodies_are_refused(client, body, encoding, status, said, path):
    response = client.post(path, content=body, headers={"Content-Encoding": encoding})

    assert (response.status_code, said in response.json()["error"]) == (status, True), response.text


def test_tritonclient_unloads_and_loads_a_model(triton):
    from tritonclient.utils import InferenceServerException

    def states() -> dict[str, str]:
        return {each["name"]: each["state"] for each in triton.get_model_repository_index()}

    before = states()
    triton.unload_model("second")
    unloaded = states()
    with pytest.raises(InferenceServerException, match="unknown model 'second'"):
        triton.infer("second", [tensor_of(GOOD, True)])
    triton.load_model("second")

    assert before == states() == {"glyphs": "READY", "second": "READY"}
    assert unloaded == {"glyphs": "READY", "second": "UNAVAILABLE"}
    assert triton.infer("second", [tensor_of(GOOD, True)]).as_numpy("label").shape == (1,)
    with pytest.raises(InferenceServerException, match="answers what names no model, and stays"):
        triton.unload_model("glyphs")


@pytest.mark.parametrize("what", REFUSALS)
def test_tritonclient_can_read_what_was_wrong(triton, what):
    import tritonclient.http as http

    wrong = REFUSALS[what]

    error = refused(http, triton, wrong)

    assert (error.status(), wrong.said in error.message()) == (str(wrong.status), True), error


@pytest.mark.parametrize("rows", range(1, ROWS + 1))
def test_the_asynchronous_client_gets_bytes_and_classes_of_any_number_of_images(server, triton, client, rows):
    import tritonclient.http.aio as http

    images = glyph_images(12, rows)

    async def ask() -> tuple[np.ndarray, np.ndarray]:
        async with http.InferenceServerClient(server.url.removeprefix("http://")) as waiting:
            asked = {"model_name": "glyphs", "inputs": [tensor_of(images, True)], "parameters": {"stream_id": "frozen"}}
            scores = await waiting.infer(**asked, outputs=wanted_of(True))
            wanted = [http.InferRequestedOutput("probabilities", binary_data=True, class_count=2)]
            best = await waiting.infer(**asked, outputs=wanted)
            return scores.as_numpy("probabilities"), best.as_numpy("probabilities")

    scores, best = asyncio.run(ask())

    waited = triton.infer("glyphs", [tensor_of(images, True)], parameters={"stream_id": "frozen"})
    expected, labels = (output["data"] for output in infer(client, "frozen", images)["outputs"])
    assert scores.tolist() == waited.as_numpy("probabilities").tolist()
    assert scores.ravel().tolist() == np.float32(expected).tolist()
    assert [row[0].decode().split(":")[2] for row in best] == labels
    assert best.shape == (rows, 2)
