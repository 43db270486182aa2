"""The Open Inference Protocol v2: what server and models say of themselves.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md.
"""

from collections.abc import Mapping
from typing import Any, Final

import orjson
from fastapi import APIRouter, Depends, Request, Response

from tta_server.api.answers import ModelAbout, ModelNames, ModelReadiness, ServerAbout, returns
from tta_server.api.front.permission import key_of
from tta_server.api.protocol.protocol_answers import ModelConfig
from tta_server.api.protocol.tensors import FILES, INPUT
from tta_server.errors import NotFound
from tta_server.runtime.served import Served, find

VERSION = "1"
"""The one version of every model."""
SCORES = "probabilities"
"""The output with a score for each class."""
OUTPUTS = (SCORES, "label")
"""What every model gives."""

_EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)


async def expect_version(name: str, version: str) -> None:
    """Do nothing if a model may have the version that a path names.

    Raises:
        NotFound: If no model has.
    """
    if version != VERSION:
        raise NotFound(f"unknown version '{version}' of model '{name}'; this server has version '{VERSION}'")


OF_VERSION: Final[list[Any]] = [Depends(expect_version)]
"""What a route whose path names a version has; its function need not know, and others have no such parameter."""


def router(models: Mapping[str, Served], server_version: str) -> APIRouter:
    """Return the routes under /v2 but for inference.

    Args:
        models: What is served.
        server_version: Version of this server.
    """
    routes = APIRouter(tags=["open inference protocol"])

    @routes.get("/v2", **returns(ServerAbout))
    async def server_metadata() -> dict[str, Any]:
        """Name the server and its extensions of the protocol."""
        return {"name": "tta-server", "version": server_version, "extensions": list(_EXTENSIONS)}

    @routes.get("/v2/models", **returns(ModelNames))
    async def list_models(request: Request) -> dict[str, Any]:
        """List the models that the key is for."""
        return {"models": list(filter(key_of(request).is_for_model, models))}

    @routes.get("/v2/models/{name}", **returns(ModelAbout, 404))
    @routes.get("/v2/models/{name}/versions/{version}", dependencies=OF_VERSION, **returns(ModelAbout, 404))
    async def model_metadata(name: str) -> dict[str, Any]:
        """Describe the tensors that go in and come out."""
        model = find(models, name).model
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "pytorch",
            "inputs": [
                {"name": INPUT, "datatype": "FP32", "shape": [-1, *model.preprocess.input_shape]},
                {"name": FILES, "datatype": "BYTES", "shape": [-1]},
            ],
            "outputs": [
                {"name": SCORES, "datatype": "FP32", "shape": [-1, len(model.labels)]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }

    @routes.get("/v2/models/{name}/config", **returns(ModelConfig, 404))
    @routes.get("/v2/models/{name}/versions/{version}/config", dependencies=OF_VERSION, **returns(ModelConfig, 404))
    async def model_config(name: str) -> dict[str, Any]:
        """Describe a model as Triton's clients and load tools read it; one of its inputs is given."""
        served = find(models, name)
        model, rows = served.model, served.engine.max_rows
        shape, classes = list(model.preprocess.input_shape), len(model.labels)
        return {
            "name": name,
            "platform": "pytorch",
            "backend": "tta-server",
            "max_batch_size": rows,
            "input": [
                {"name": INPUT, "data_type": "TYPE_FP32", "dims": shape, "optional": False},
                {"name": FILES, "data_type": "TYPE_STRING", "dims": [1], "optional": True},
            ],
            "output": [
                {"name": SCORES, "data_type": "TYPE_FP32", "dims": [classes]},
                {"name": OUTPUTS[1], "data_type": "TYPE_STRING", "dims": [1]},
            ],
            "dynamic_batching": {},
        }

    readiness = returns(ModelReadiness, 404, also=[503])

    @routes.get("/v2/models/{name}/ready", **readiness)
    @routes.get("/v2/models/{name}/versions/{version}/ready", dependencies=OF_VERSION, **readiness)
    async def model_ready(name: str) -> Response:
        """Tell whether a good request would be answered; 503 if not."""
        ready = not find(models, name).trouble()
        body = orjson.dumps({"name": name, "ready": ready})
        return Response(body, status_code=200 if ready else 503, media_type="application/json")

    return routes
