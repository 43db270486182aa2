"""A server that leaves says so to those who ask whether it is ready, and answers the others to the end."""

import re

import tritonclient.grpc
import tritonclient.http

from tests.server import running
from tests.tta_server.calls import until
from tests.tta_server.triton_refusals import good


def test_tritonclient_hears_over_http_and_grpc_that_a_server_leaves_and_is_answered(tmp_path):
    config = {"model": {"device": "cpu"}, "server": {"drain_s": 600, "grpc_port": 0}}
    with running(tmp_path, config) as server:
        grpc_port = re.search(r"grpc\W+port (\d+)", (tmp_path / "server.log").read_text())[1]
        for triton, address in (
            (tritonclient.http, server.url.removeprefix("http://")),
            (tritonclient.grpc, f"127.0.0.1:{grpc_port}"),
        ):
            with triton.InferenceServerClient(address) as client:
                if triton is tritonclient.http:
                    assert (client.is_server_ready(), client.is_model_ready("glyphs")) == (True, True)
                    server.process.terminate()
                until(lambda client=client: not client.is_server_ready())

                assert (client.is_model_ready("glyphs"), client.is_server_live()) == (False, True)
                assert client.infer("glyphs", [good(triton)]).as_numpy("label").shape == (1,)
        server.process.kill()  # nobody waits for the end of what is let out
