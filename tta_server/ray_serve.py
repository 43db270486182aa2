"""The server as a deployment of Ray Serve, for clusters that run Ray already: `import_path: tta_server.ray_serve:app`.

Ray's proxy takes the place of the balancer: it hashes the header X-Stream-Id, and replicas share one storage. A replica
has no address of its own, so that none asks another for a stream: a stream that moves loses what was learnt since its
last save, at most `storage.save_every_s`.
"""

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve._private.constants import SERVE_SESSION_ID
from ray.serve.config import RequestRouterConfig
from starlette.types import ASGIApp

from tta_server.app import build, use_threads
from tta_server.settings import Settings
from tta_server.settings_file import load_settings

HEADER: Final = "x-stream-id"
_ROUTER = RequestRouterConfig(
    request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter",
    request_router_kwargs={"num_fallback_replicas": 0},  # who is busy is waited for: another would take the stream
)


class Arguments(BaseModel):
    """What the section `args` of Ray's configuration holds.

    Attributes:
        config: The server's configuration file, at this path on each node; variables `TTA_...` of a node win over it.
    """

    model_config = ConfigDict(extra="forbid")

    config: Path


class Replica:
    """One server; Ray makes it, asks it whether it is well, and ends it."""

    def __init__(self, config: Path) -> None:
        """Load the model, and take the storage under the name that Ray gives the replica.

        Raises:
            ValueError: If the configuration does not fit the model, or Ray.
        """
        name = serve.get_replica_context().replica_tag
        settings = load_settings(config, {"storage": {"shared": True, "replica": name}})
        _expect_fit(settings)
        use_threads(settings.engine)
        self._service = build(settings)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return what answers; Ray asks for it by this name."""
        return self._service.app

    def check_health(self) -> None:
        """Do nothing if the replica may stay.

        Raises:
            RuntimeError: If only a restart helps.
        """
        engine = self._service.served.engine
        if engine.broken:
            raise RuntimeError(engine.trouble())


DEPLOYMENT: Final = serve.deployment(
    serve.ingress()(Replica), name="tta-server", request_router_config=_ROUTER, max_ongoing_requests=64
)


def app(arguments: Arguments) -> Application:
    """Return what `serve run` and `serve deploy` start."""
    return DEPLOYMENT.bind(arguments.config)


def _expect_fit(settings: Settings) -> None:
    """Raise a ValueError if the configuration is not for where Ray listens, or Ray does not hash the right header."""
    if SERVE_SESSION_ID != HEADER:
        raise ValueError(
            f"Ray sends requests by the header '{SERVE_SESSION_ID}', so that streams would have no place: set "
            f"RAY_SERVE_SESSION_ID_HEADER_KEY={HEADER} in the environment of 'ray start', on every node"
        )
    server = settings.server
    if settings.storage.peers or server.grpc_port is not None or server.admin_port is not None:
        raise ValueError(
            "storage.peers, server.grpc_port and server.admin_port do not go with Ray Serve: it alone listens, on one "
            "port; leave them out"
        )
    if not settings.auth.asks_for_keys and not settings.auth.insecure_public:
        raise ValueError(
            "whoever reaches Ray's proxy could change everything: set auth.keys_file, or say that it is meant with "
            "auth.insecure_public"
        )
