"""The Open Inference Protocol v2: what server and models say of themselves.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Response

from tta_server.api.answers import ModelAbout, ModelNames, ModelReadiness, ServerAbout, told
from tta_server.api.tensors import INPUT
from tta_server.errors import NotFound
from tta_server.runtime.served import Served, find

VERSION = "1"
"""The one version of every model."""


def known(models: Mapping[str, Served], name: str, version: str) -> Served:
    """Return the model that a path names.

    Raises:
        NotFound: If there is none, or not in that version.
    """
    served = find(models, name)
    if version != VERSION:
        raise NotFound(f"unknown version '{version}' of model '{name}'; this server has version '{VERSION}'")
    return served


def router(models: Mapping[str, Served], server_version: str) -> APIRouter:
    """Return the routes under /v2 but for inference.

    Args:
        models: What is served.
        server_version: Version of this server.
    """
    routes = APIRouter(tags=["open inference protocol"])

    @routes.get("/v2", **told(ServerAbout))
    async def server_metadata() -> dict[str, Any]:
        """Name the server and its extensions of the protocol."""
        return {"name": "tta-server", "version": server_version, "extensions": []}

    @routes.get("/v2/models", **told(ModelNames))
    async def list_models() -> dict[str, Any]:
        """List the models."""
        return {"models": list(models)}

    @routes.get("/v2/models/{name}", **told(ModelAbout, 404))
    @routes.get("/v2/models/{name}/versions/{version}", **told(ModelAbout, 404))
    async def model_metadata(name: str, version: str = VERSION) -> dict[str, Any]:
        """Describe the tensors that go in and come out."""
        model = known(models, name, version).model
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "pytorch",
            "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *model.preprocess.input_shape]}],
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.labels)]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }

    @routes.get("/v2/models/{name}/ready", **told(ModelReadiness, 404))
    @routes.get("/v2/models/{name}/versions/{version}/ready", **told(ModelReadiness, 404))
    async def model_ready(name: str, version: str = VERSION) -> Response:
        """Tell whether a good request would be answered; 503 if not."""
        ready = not known(models, name, version).engine.trouble()
        body = orjson.dumps({"name": name, "ready": ready})
        return Response(body, status_code=200 if ready else 503, media_type="application/json")

    return routes
