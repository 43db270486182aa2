"""What the tests of operators' commands share."""

import httpx

from tests.tta_server.calls import UNGUARDED, glyph_images, infer, settled

ROWS = 4
CONFIG = {
    "server": {"trusted_proxies": ["127.0.0.1"]},
    "model": {"device": "cpu"},
    "adapter": {"name": "tent", "settings": {"lr": 0.02}},
    "engine": {"max_rows": ROWS, "window_rows": ROWS, "stack_rows": 0},
    "streams": {"named": {"reference": {"mode": "off"}}, "max_streams": 40},
    "guard": UNGUARDED,
}
ANN = {"X-Actor": "ann"}


def taught(client: httpx.Client, name: str, steps: int = 3) -> dict:
    """Have a stream learn, and return what the server says of it."""
    for step in range(steps):
        infer(client, name, glyph_images(100 + ROWS * step, ROWS))
        about = settled(client, name, ROWS)
    assert about["steps"] == steps
    return about


def lines(client: httpx.Client, name: str = "") -> list[dict]:
    """Return the audit log of a stream, or of all, newest first."""
    response = client.get(f"/v1/streams/{name}/audit" if name else "/v1/audit")
    assert response.status_code == 200, response.text
    return response.json()["entries"]
