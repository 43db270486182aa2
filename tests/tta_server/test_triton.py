"""The Open Inference Protocol, by somebody else's client."""

from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from tests.server import Running, running
from tests.tta_server import calls
from tests.tta_server.calls import UNGUARDED, infer

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    # Every request fills a forward, so that all forwards have one shape and answers can be compared bit for bit.
    "engine": {"max_rows": ROWS, "max_queue_rows": ROWS, "window_rows": 2 * ROWS, "stack_rows": 0, "max_lag_s": 0},
    "guard": UNGUARDED,
    "streams": {"named": {"frozen": {"mode": "off"}}},
}


def glyph_images(start: int, count: int = ROWS) -> np.ndarray:
    return calls.glyph_images(start, count)


GOOD = calls.noise(1)


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
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 32, 32]}]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "label"]


@pytest.mark.parametrize(("datatype", "scale"), [("UINT8", 1), ("FP32", 255)])
@pytest.mark.parametrize("outputs", [None, ["label", "probabilities"]])
def test_tritonclient_gets_the_answer_that_others_get(triton, client, datatype, scale, outputs):
    import tritonclient.http as http

    images = glyph_images(40)
    tensor = http.InferInput("input", list(images.shape), datatype)
    tensor.set_data_from_numpy(images if scale == 1 else (images / scale).astype(np.float32), binary_data=False)
    wanted = outputs and [http.InferRequestedOutput(name, binary_data=False) for name in outputs]

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


@pytest.mark.parametrize(
    ("model", "binary", "reason"),
    [
        ("nobody", False, "unknown model 'nobody'; this server has 'glyphs'"),
        ("glyphs", True, "binary_data=False"),
    ],
)
def test_tritonclient_can_read_what_was_wrong(triton, model, binary, reason):
    import tritonclient.http as http
    from tritonclient.utils import InferenceServerException

    tensor = http.InferInput("input", [1, 3, 32, 32], "UINT8")
    tensor.set_data_from_numpy(GOOD, binary_data=binary)

    with pytest.raises(InferenceServerException, match=reason):
        triton.infer(model, [tensor])
