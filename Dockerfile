# docker build -t tta-server:0.1.0 .
#
# One file for GPU and CPU. On x86-64 the default registry's torch brings its own CUDA and also runs without a GPU; the
# host adds only the driver (6 GB). For a much smaller image, without GPU support, name an index of CPU wheels, one that
# has both torch and torchvision: docker build --build-arg TORCH_INDEX=ADDRESS -t tta-server:0.1.0-cpu . docs/deploy.md
# says where PyTorch names its own.
#
# podman and buildah need `--format docker`: images in the OCI format have no HEALTHCHECK.

# The version that the tests run on.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS builder
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# pip reads both in every step: where packages come from in place of the default registry, and the address of a file
# with the versions to take. Without the latter, two builds may differ.
ARG PIP_INDEX_URL
ARG PIP_CONSTRAINT
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# The dependencies come before the code, and torch before the others: a change of code rebuilds neither layer.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
        > all.txt \
    && grep '^torch' all.txt > torch.txt
ARG TORCH_INDEX=""
# This index is set for one step, and only if it is given: pip then takes nothing else from it later. Builds of torch
# and torchvision that do not fit install without a word and fail when they are imported: so import them here.
RUN env ${TORCH_INDEX:+PIP_INDEX_URL="$TORCH_INDEX"} pip install -r torch.txt
RUN python -c "import torchvision"
RUN pip install -r all.txt

COPY README.md LICENSE ./
COPY models models
COPY adapters adapters
COPY tta_server tta_server
# Of the optional parts (pyproject.toml), those that the server is to have: EXTRAS=s3,onnx,timm.
ARG EXTRAS=s3,onnx
RUN pip install ".${EXTRAS:+[$EXTRAS]}" && pip check
# One prediction of the embedded model: an image that cannot answer is not built.
RUN cd / && python -c "import torch; from tta_server import models; print(models.load('glyphs').backbone.forward(torch.rand(1, 3, 32, 32)).logits.argmax())"
# What is in the image beside the base's packages, as CycloneDX: /opt/venv/sbom.json.
RUN python -m venv /opt/sbom && /opt/sbom/bin/pip install 'cyclonedx-bom>=7,<8' \
    && /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python --output-file /opt/venv/sbom.json

FROM python:${PYTHON_VERSION}-slim
LABEL org.opencontainers.image.title="tta-server" \
      org.opencontainers.image.description="Inference for images whose input drifts: adapts online, per stream" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
# With an entry of its own, because libraries ask for the name and the home of the user that they run as.
RUN groupadd --gid 10001 tta \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin tta
# Owned by root: the server cannot change its own code. It writes to /tmp only, so the root file system can be read-only.
COPY --from=builder /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TTA_SERVER__HOST=:: \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# NVIDIA_VISIBLE_DEVICES stays unset: with it, a container that asked for no GPU would see all of them.
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
# Kubernetes has its own probes. It reads what the server reads: the environment, and the file that TTA_CONFIG names. Give
# options of `serve` to it, too: docker run --health-cmd 'tta-server ready --port 9000'. A server that asks clients for
# certificates is shown its own; where that is not of the right CA it needs a check of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 CMD ["tta-server", "ready"]
ENTRYPOINT ["tta-server"]
CMD ["serve"]
