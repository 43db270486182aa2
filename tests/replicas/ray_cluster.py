"""The server on a Ray of its own, as k8s/ray/serve.yaml has it; needs the extra `ray`."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.pages import ROOT

PATIENCE_S = 120.0
NAME = "tta-server"
# Read when Ray is imported, and by everything that it starts.
os.environ |= {
    "RAY_SERVE_SESSION_ID_HEADER_KEY": "x-stream-id",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def example() -> dict[str, Any]:
    """Return what the example says of the deployment."""
    (application,) = yaml.safe_load((ROOT / "k8s/ray/serve.yaml").read_text())["applications"]
    assert application["import_path"] == "tta_server.ray_serve:app"
    (deployment,) = application["deployments"]
    return deployment


@contextmanager
def on_ray(folder: Path, replicas: int, settings: dict[str, Any]) -> Iterator[str]:
    """Start Ray and the server, and stop both at the end.

    Args:
        folder: Where the configuration goes, and what the streams learn: `store`.
        replicas: How many, in place of what the example says of their number and CPUs.
        settings: Of the server.

    Yields:
        Where Ray's proxy listens.
    """
    import ray
    from ray import serve

    from tta_server.ray_serve import DEPLOYMENT

    config = folder / "config.yaml"
    storage = {"url": str(folder / "store")} | settings.get("storage", {})
    config.write_text(yaml.safe_dump(settings | {"storage": storage, "auth": {"insecure_public": True}}))
    port = free_port()
    options = example() | {"num_replicas": replicas, "ray_actor_options": {"num_cpus": 0.1}}
    options.pop("autoscaling_config")
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1",
        logging_level="warning", log_to_driver=False,
    )  # fmt: skip
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(DEPLOYMENT.options(**options).bind(config), name=NAME, route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def process_of(replica: str) -> int:
    """Return the process of a replica, by the name that the server says."""
    import ray

    actor = ray.get_actor(f"SERVE_REPLICA::{NAME}#{NAME}#{replica}", namespace="serve")
    return ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))


def wait_until(condition: Any) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
