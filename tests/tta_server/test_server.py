"""The server as its callers meet it: a real process, real sockets, real clients."""

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from tests.server import Running, running
from tests.tta_server import calls
from tests.tta_server.calls import INFER, PATIENCE_S, UNGUARDED, body, infer, metric, said, stream, until
from tests.tta_server.pictures import encoded, good_files, png, scene
from tests.tta_server.runtime.fakes import rows, tiny
from tta_server.app import build
from tta_server.models import Model, Preprocess, glyphs
from tta_server.models.catalog import default_preprocess
from tta_server.runtime.worker import Answer
from tta_server.settings_file import load_settings

ROWS = 4
CONFIG = {
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    # Every request fills a forward, so that all forwards have one shape and answers can be compared bit for bit.
    "engine": {"max_rows": ROWS, "max_queue_rows": 4096, "window_rows": 2 * ROWS, "stack_rows": 0, "max_lag_s": 0},
    "guard": UNGUARDED,
    "streams": {"named": {"frozen": {"mode": "off"}}},
}


def glyph_images(start: int, count: int = ROWS) -> np.ndarray:
    return calls.glyph_images(start, count)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    """A server whose queue holds one full request."""
    config = CONFIG | {"engine": CONFIG["engine"] | {"max_queue_rows": ROWS}}
    with running(tmp_path_factory.mktemp("server"), config) as started:
        yield started


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


# One stream cannot reach another
def gentle_answers(client: httpx.Client) -> list:
    """Send one stream's requests in sequence, each after the learning that the last one caused."""
    answers = []
    for i in range(10):
        answers.append(said(infer(client, "gentle", glyph_images(200 + ROWS * i))))
        until(lambda i=i: stream(client, "gentle")["steps"] == (i + 1) // 2)
    return answers


def frozen_answers(url: str, number: int) -> list:
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        return [said(infer(client, "frozen", glyph_images(ROWS * (2 * number + i)))) for i in range(2)]


def adapt_hard(url: str, number: int) -> int:
    rng = np.random.default_rng(number)
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        versions = [
            infer(client, "hard", rng.integers(0, 256, (ROWS, 3, 32, 32), np.uint8))["parameters"]["state_version"]
            for _ in range(3)
        ]
    return max(versions)


def test_64_clients_that_make_one_stream_adapt_hard_change_no_answer_of_the_others(tmp_path):
    (tmp_path / "quiet").mkdir()
    with running(tmp_path / "quiet", CONFIG) as quiet:
        expected_frozen = [frozen_answers(quiet.url, number) for number in range(24)]
        expected_gentle = gentle_answers(quiet.client)

    with running(tmp_path, CONFIG) as crowded, ThreadPoolExecutor(64) as pool:
        hard = [pool.submit(adapt_hard, crowded.url, number) for number in range(40)]
        frozen = [pool.submit(frozen_answers, crowded.url, number) for number in range(24)]
        gentle = gentle_answers(crowded.client)
        versions = [future.result(PATIENCE_S) for future in hard]
        answers = [future.result(PATIENCE_S) for future in frozen]
        summary = stream(crowded.client, "hard")

        assert crowded.client.get("/v2/health/ready").status_code == 200
    assert max(versions) > 5
    assert summary["images"] == 40 * 3 * ROWS
    assert answers == expected_frozen
    assert gentle == expected_gentle
    assert gentle[-1][1] == {"stream": "gentle", "state_version": 4, "adapted": True}


async def ten_thousand_requests() -> None:
    backbone = tiny()
    model = Model(backbone, Preprocess((8, 8)), ("a", "b", "c", "d"))
    settings = load_settings(
        None,
        {
            "adapter": {"name": "tent", "settings": {"lr": 0.1}},
            "engine": {"max_rows": 16, "max_queue_rows": 1000, "window_rows": 16},
            "streams": {"named": {"frozen": {"mode": "off"}, "lab": {"mode": "inline"}}, "duplicate_memory": 0},
            "guard": UNGUARDED,
        },
    )
    service, probe = build(settings, model), rows(1, 99)
    names = ["hard", "frozen", "gentle", "hard", "lab"]

    transport = httpx.ASGITransport(service.app)
    async with service.app.router.lifespan_context(service.app):
        before = service.engine.submit("frozen", probe).result(PATIENCE_S)
        for start in range(0, 10_000, 500):
            waiting: list[Future[Answer]] = []
            for i in range(start, start + 500):
                waiting.append(service.engine.submit(names[i % 5], rows(2 if names[i % 5] == "lab" else 1, i % 97)))
            assert all(np.isfinite(future.result(PATIENCE_S).probabilities).all() for future in waiting)
        after = service.engine.submit("frozen", probe).result(PATIENCE_S)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            streams = (await client.get("/v1/streams")).json()["streams"]
            ready = (await client.get("/v2/health/ready")).status_code

    assert ready == 200
    assert backbone.digest() == backbone.spec.digest
    assert np.array_equal(before.probabilities, after.probabilities)
    steps = {each["name"]: each["steps"] for each in streams}
    assert steps["lab"] == 2000
    assert min(steps["hard"], steps["gentle"]) > 10
    assert steps["frozen"] == 0


def test_after_ten_thousand_requests_the_backbone_is_bitwise_what_it_was():
    asyncio.run(ten_thousand_requests())


# Images
@pytest.mark.parametrize("kind", [kind for kind in good_files() if kind != "one pixel"])
def test_a_usual_image_is_answered(client, kind):
    response = client.post("/predict", content=good_files()[kind], headers={"X-Stream-Id": "frozen"})

    answer = response.json()
    assert response.status_code == 200, answer
    assert answer["predictions"][0]["label"] in glyphs.LABELS
    probabilities = [top["probability"] for top in answer["predictions"][0]["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_several_files_are_answered_in_their_order(client):
    images, labels = (part[:ROWS] for part in glyphs.images("source"))
    files = [("image", (f"{i}.png", picture_of(image))) for i, image in enumerate(images)]

    answer = client.post("/predict", files=files, headers={"X-Stream-Id": "frozen"}).json()
    tensor = infer(client, "frozen", images)

    found = [prediction["label"] for prediction in answer["predictions"]]
    assert found == tensor["outputs"][1]["data"]
    assert sum(name == glyphs.LABELS[i] for name, i in zip(found, labels, strict=True)) >= ROWS - 1


def picture_of(image: np.ndarray) -> bytes:
    return encoded(Image.fromarray(image.transpose(1, 2, 0)))


def test_one_image_alone_answers_as_the_body_of_a_form_does(client):
    data = png(32, 32)

    headers = {"X-Stream-Id": "frozen", "X-Request-Id": "7"}

    bare = client.post("/predict", content=data, headers=headers).json()
    form = client.post("/predict", files={"image": data}, headers=headers).json()

    assert bare == form


GOOD = calls.noise(1)
GREY = np.full((1, 3, 32, 32), 128, np.uint8)
NAN = body(GREY, datatype="FP32").replace(b'"data":[128,', b'"data":[NaN,')
BAD = {
    "truncated jpeg": ("POST", "/predict", {"content": encoded(scene(), "JPEG")[:600]}, 400, "damaged image"),
    "text": ("POST", "/predict", {"content": b"hello"}, 415, "send JPEG or PNG"),
    "gif": ("POST", "/predict", {"content": encoded(scene(), "GIF")}, 415, "send JPEG or PNG"),
    "empty body": ("POST", "/predict", {}, 400, "no image in the request; send"),
    "empty file": ("POST", "/predict", {"files": {"image": b""}}, 400, "image 1 of 1 ('upload') is empty"),
    "form without files": ("POST", "/predict", {"data": {"image": "x"}, "files": {}}, 415, "send JPEG or PNG"),
    "broken form": (
        "POST",
        "/predict",
        {"content": b"abc", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        400,
        "multipart",
    ),
    "form without boundary": (
        "POST",
        "/predict",
        {"content": b"abc", "headers": {"content-type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "one bad of two": (
        "POST",
        "/predict",
        {"files": [("image", ("a.png", png())), ("image", ("b.png", b"x"))]},
        415,
        "image 2 of 2 ('b.png')",
    ),
    "too many files": ("POST", "/predict", {"files": [("image", ("a.png", png()))] * 5}, 400, "number of files is 4"),
    "far too many files": ("POST", "/predict", {"files": [("image", ("a.png", b"x"))] * 99}, 400, "files is 4"),
    "sliver": ("POST", "/predict", {"content": png(1, 400)}, 400, "50 times"),
    "one pixel": ("POST", "/predict", {"content": png(1, 1)}, 400, "the body is of one colour"),
    "one grey of two": (
        "POST",
        INFER,
        {"content": body(np.concatenate([GOOD, GREY]))},
        400,
        "image 2 of 2 is of one colour",
    ),
    "request id": (
        "POST",
        "/predict",
        {"content": png(), "headers": {"X-Request-Id": "a b"}},
        400,
        "header X-Request-Id 'a b' must be 1 to 128 printable",
    ),
    "id": ("POST", INFER, {"content": body(GOOD)[:-1] + b',"id":"a b"}'}, 400, "'id' 'a b' must be 1 to 128"),
    "top_k": ("POST", "/predict?top_k=0", {"content": png()}, 400, "top_k is 0, expected 1 to 36"),
    "top_k text": ("POST", "/predict?top_k=all", {"content": png()}, 400, "top_k"),
    "too large": ("POST", "/predict", {"content": bytes(32 * 2**20 + 1)}, 413, "at most 33554432 bytes"),
    "too large and chunked": ("POST", "/predict", {"content": iter([bytes(2**20)] * 33)}, 413, "at most 33554432"),
    "stream name": ("POST", "/predict", {"content": png(), "headers": {"X-Stream-Id": "a b"}}, 400, "'a b' must be"),
    "stream name in the path": ("GET", "/v1/streams/a%20b", {}, 400, "'a b' must be 1 to 64 letters"),
    "unknown stream": ("POST", "/v1/streams/nobody/reset", {}, 404, "unknown stream 'nobody'"),
    "nan": ("POST", INFER, {"content": NAN}, 400, "NaN and Infinity are no JSON numbers"),
    "wrong shape": ("POST", INFER, {"content": body(GOOD, shape=[1, 32, 32, 3])}, 400, "expected [N, 3, 32, 32]"),
    "too many images": ("POST", INFER, {"content": body(np.zeros((5, 3, 32, 32), np.uint8))}, 400, "expected 1 to 4"),
    "no json": ("POST", INFER, {"content": b"\xff\xd8"}, 400, "not JSON"),
    "unknown model": ("POST", "/v2/models/x/infer", {"content": body(GOOD)}, 404, "this server has 'glyphs'"),
    "unknown version": ("POST", "/v2/models/glyphs/versions/9/infer", {"content": body(GOOD)}, 404, "has version '1'"),
    "binary data": (
        "POST",
        INFER,
        {"content": b"{}", "headers": {"Inference-Header-Content-Length": "2"}},
        400,
        "binary_data=False",
    ),
    "sequence id": (
        "POST",
        INFER,
        {"content": body(GOOD)[:-1] + b',"parameters":{"sequence_id":true}}'},
        400,
        "stream name 'True'",
    ),
    "wrong method": ("GET", "/predict", {}, 405, "GET is not allowed here"),
    "wrong path": ("POST", "/predictions", {"content": png()}, 404, "no such path '/predictions'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_what_is_wrong_and_changes_nothing(client, case):
    method, path, content, status, reason = BAD[case]
    infer(client, "frozen", glyph_images(0))
    infer(client, "default", glyph_images(0))
    until(lambda: stream(client, "default")["images_in_window"] < 2 * ROWS)
    before = client.get("/v1/streams").json()

    response = client.request(method, path, **content)

    assert response.status_code == status, response.text
    assert reason in response.json()["error"]
    assert client.get("/v1/streams").json() == before
    assert infer(client, "frozen", glyph_images(0))["parameters"]["state_version"] == 0


def address(server: Running) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def test_a_body_that_is_declared_to_be_huge_is_refused_before_it_is_sent(server):
    with socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")

        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # to the end: the server hangs up

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the body may have at most 33554432 bytes' in answer


def test_a_body_without_an_end_is_not_read_for_ever(server):
    part = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    with socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")

        try:
            while sent < 2**30:
                connection.sendall(part)
                sent += 65536
        except ConnectionError:  # the server hung up
            pass

    # What the sockets' buffers hold comes on top of the limit.
    assert sent < 64 * 2**20


def test_a_caller_who_hangs_up_is_no_error_of_the_server(server, client):
    counted = metric(client, "tta_requests_total")
    errors = metric(client, 'tta_requests_total{model="glyphs",outcome="error"}')

    with socket.create_connection(address(server), PATIENCE_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
    until(lambda: metric(client, "tta_requests_total") > counted)

    assert metric(client, 'tta_requests_total{model="glyphs",outcome="error"}') == errors


# Overload and the end
def test_a_full_queue_is_429_with_the_time_to_wait_and_no_answer_is_lost(server, client):
    enough = threading.Event()
    refused: list[httpx.Response] = []
    other: list[httpx.Response] = []
    content = body(glyph_images(0))

    def press() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as own:
            while not enough.is_set():
                response = own.post(INFER, content=content, headers={"X-Stream-Id": "frozen"})
                if response.status_code == 429:
                    refused.append(response)
                    enough.set()
                elif response.status_code != 200:
                    other.append(response)

    threads = [threading.Thread(target=press) for _ in range(12)]
    for thread in threads:
        thread.start()
    enough.wait(PATIENCE_S)
    enough.set()
    for thread in threads:
        thread.join()

    assert not other
    assert refused
    assert int(refused[0].headers["Retry-After"]) >= 1
    assert "images are waiting and this server queues at most 4" in refused[0].json()["error"]
    assert infer(client, "frozen", glyph_images(0))["parameters"]["state_version"] == 0


def test_sigterm_answers_what_was_accepted_and_ends_with_status_0(tmp_path):
    count, images = 6, 64
    config = CONFIG | {"engine": {"max_rows": images}}
    content = body(glyph_images(0, images))

    def ask(url: str) -> int:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as own:
            return own.post(INFER, content=content).status_code

    with running(tmp_path, config) as server, ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask, server.url) for _ in range(count)]
        # Every request waits, is being answered, or was answered: then all of them were accepted.
        until(
            lambda: (
                metric(server.client, "tta_queue_depth_images{") + metric(server.client, "tta_images_total{")
                >= (count - 1) * images
            )
        )
        server.process.send_signal(signal.SIGTERM)

        assert [future.result(PATIENCE_S) for future in asked] == [200] * count
        assert server.process.wait(PATIENCE_S) == 0


# The Open Inference Protocol, by somebody else's client
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


# Streams
def test_a_stream_is_listed_read_and_reset_to_the_frozen_answers(client):
    images = glyph_images(80)
    for i in range(4):
        infer(client, "yard", glyph_images(100 + ROWS * i))
    until(lambda: stream(client, "yard")["steps"] >= 1 and stream(client, "yard")["images_in_window"] < 2 * ROWS)
    learnt, frozen = infer(client, "yard", images), infer(client, "frozen", images)
    assert learnt["parameters"]["adapted"]
    assert learnt["outputs"][0]["data"] != frozen["outputs"][0]["data"]

    version = stream(client, "yard")["state_version"]
    response = client.post("/v1/streams/yard/reset")

    assert response.status_code == 200
    assert response.json() == stream(client, "yard")
    assert (response.json()["state_version"], response.json()["steps"]) == (version + 1, 0)
    answer = infer(client, "yard", images)
    assert answer["outputs"] == frozen["outputs"]
    assert said(answer)[1] == {"stream": "yard", "state_version": version + 1, "adapted": False}
    assert calls.names(client).count("yard") == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs", "/openapi.json"])
def test_what_a_probe_or_a_reader_asks_is_there(client, path):
    assert client.get(path).status_code == 200


# Another model
def test_resnet50_is_served_from_a_weights_file(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).eval()
    weights = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), weights)
    config = {
        "model": {"architecture": "resnet50", "weights": str(weights), "device": "cpu"},
        "engine": {"max_rows": 2, "max_queue_rows": 8, "window_rows": 2},
    }
    image = scene(300, 260)

    with running(tmp_path, config) as server:
        response = server.client.post("/predict?top_k=1000", content=encoded(image))
        metadata = server.client.get("/v2/models/resnet50").json()

    answer = response.json()
    assert response.status_code == 200, answer
    assert metadata["inputs"][0]["shape"] == [-1, 3, 224, 224]
    assert expected_of(network, image) == pytest.approx(in_order(answer), abs=1e-4)  # other kernels, other rounding


def in_order(answer: dict) -> list[float]:
    top = answer["predictions"][0]["top"]
    return [each["probability"] for each in sorted(top, key=lambda each: each["index"])]


def expected_of(network: torch.nn.Module, image: object) -> list[float]:
    preprocess = default_preprocess("resnet50")
    x = torch.from_numpy(preprocess(image)).float()[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (preprocess.mean, preprocess.std))
    with torch.no_grad():
        return network((x - mean) / std).softmax(1)[0].tolist()
