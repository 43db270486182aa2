"""Requests that a program makes up from the OpenAPI document: the server answers each as the document says."""

import re
import subprocess
import sys
from pathlib import Path

from tests.server import running
from tests.tta_server.calls import metric
from tta_server.keys.new_key import new_key

CONFIG = {
    "model": {"device": "cpu"},
    "repository": {"models": {"second": {"architecture": "glyphs", "device": "cpu"}}},
    "domains": {"max": 4},
    "engine": {"max_rows": 4, "window_rows": 4},
    "streams": {"max_streams": 50},
    "drift": {"keep_images": 2},
    "limits": {"max_body_bytes": 2**20},
}
SHORT = ["--max-time", "20", "--max-examples", "3", "--seed", "1"]


def test_every_answer_to_made_up_requests_is_one_that_the_document_names(tmp_path, examples):
    rules = Path(__file__).with_name("schemathesis.toml")
    length = ["--max-examples", str(examples)] if examples else SHORT
    keys = tmp_path / "keys.yaml"
    key, _ = new_key(keys, {"name": "fuzz", "scopes": ["admin"], "streams": ["*"]})
    config = CONFIG | {"storage": {"url": str(tmp_path / "kept")}, "auth": {"keys_file": str(keys)}}

    with running(tmp_path, config) as server:
        server.client.headers["Authorization"] = f"Bearer {key}"
        command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(rules), "run"]
        command += [f"{server.url}/openapi.json", "--checks", "all", "--no-color", *length]
        command += ["--header", f"Authorization: Bearer {key}"]  # what is answered is asked again without, and refused
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        refused = metric(server.client, 'tta_refusals_total{model="glyphs",reason="unauthorized"}')
        alive = server.client.get("/v2/health/ready").status_code

    made = re.search(r"(\d+) generated.*", done.stdout)
    assert (done.returncode, alive) == (0, 200), done.stdout + done.stderr
    sys.stdout.write(made[0])  # `make test-fuzz` shows it
    assert int(made[1]) >= (2000 if examples else 1)
    assert not examples or refused >= 20  # a slow machine comes to little in 20 s
    assert "Traceback" not in (tmp_path / "server.log").read_text()
