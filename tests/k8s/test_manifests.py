"""The Kubernetes manifests: valid, restricted, and in agreement with the server that they run."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from tta_server.app import build
from tta_server.serve import _DRAIN_S
from tta_server.settings import Settings
from tta_server.settings_file import load_settings
from tta_server.storage.keeper import Keeper

KINDS = ("ConfigMap", "Deployment", "PersistentVolumeClaim", "Service")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture(scope="module")
def manifests(root) -> dict[str, dict[str, Any]]:
    """Return the manifests by kind."""
    paths = [path for path in sorted((root / "k8s/base").glob("*.yaml")) if path.name != "kustomization.yaml"]
    return {manifest["kind"]: manifest for manifest in (yaml.safe_load(path.read_text()) for path in paths)}


@pytest.fixture(scope="module")
def kustomization(root) -> dict[str, Any]:
    return yaml.safe_load((root / "k8s/base/kustomization.yaml").read_text())


@pytest.fixture(scope="module")
def pod(manifests) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


@pytest.fixture
def settings(manifests, tmp_path, monkeypatch) -> Settings:
    """Return the configuration that the pod's server loads, from its file and its variable."""
    path = tmp_path / "config.yaml"
    path.write_text(manifests["ConfigMap"]["data"]["config.yaml"])
    monkeypatch.setenv("TTA_CONFIG", str(path))
    return load_settings()


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_is_valid_to_the_letter(manifests, kind):
    version = kubernetes_validate.validate(manifests[kind], kubernetes_validate.latest_version(), strict=True)

    assert version == ".".join(kubernetes_validate.latest_version().split(".")[:2])


def test_the_kustomization_lists_every_file_and_no_other(root, kustomization, manifests):
    files = {path.name for path in (root / "k8s/base").iterdir()} - {"kustomization.yaml"}

    assert set(kustomization["resources"]) == files
    assert set(manifests) == set(KINDS)


def test_the_kustomization_sets_the_image_of_the_deployment(kustomization, container):
    (image,) = kustomization["images"]

    assert container["image"] == f"{image['name']}:{image['newTag']}"


def test_everything_has_one_name_and_the_standard_labels(manifests):
    wanted = {f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "part-of", "version")}

    for manifest in manifests.values():
        assert manifest["metadata"]["name"] == "tta-server"
        assert set(manifest["metadata"]["labels"]) == wanted


def test_the_deployment_and_the_service_select_its_pods(manifests):
    spec = manifests["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"].items()

    assert spec["selector"]["matchLabels"].items() <= labels
    assert manifests["Service"]["spec"]["selector"].items() <= labels


def test_every_port_is_the_one_that_the_server_listens_on(manifests, container, settings):
    (port,) = container["ports"]
    (service_port,) = manifests["Service"]["spec"]["ports"]
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]

    assert port["containerPort"] == settings.server.port
    assert service_port["port"] == settings.server.port
    assert service_port["targetPort"] == port["name"]
    assert annotations["prometheus.io/port"] == str(settings.server.port)
    assert all(container[probe]["httpGet"]["port"] == port["name"] for probe in PROBES)


def test_the_server_listens_beyond_its_own_pod(settings):
    assert settings.server.host == "0.0.0.0"


def test_every_configured_stream_has_metric_series_of_its_own(settings):
    assert settings.streams.max_labelled >= settings.streams.max_streams


def test_the_configuration_is_mounted_where_the_variable_points(manifests, pod, container):
    path = Path(next(variable["value"] for variable in container["env"] if variable["name"] == "TTA_CONFIG"))
    volume = next(mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == str(path.parent))
    source = next(entry for entry in pod["volumes"] if entry["name"] == volume)

    assert source["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    assert path.name in manifests["ConfigMap"]["data"]


def test_the_paths_that_kubernetes_and_prometheus_ask_for_answer(manifests, container, settings):
    app = build(settings).app
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    paths = [*(container[probe]["httpGet"]["path"] for probe in PROBES), annotations["prometheus.io/path"]]

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://pod") as client,
        ):
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(ask()) == [200] * len(paths)


def test_the_pod_meets_the_restricted_security_standard(pod, container):
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
    }
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))


def test_the_pod_gets_nothing_from_the_cluster_that_it_does_not_need(pod):
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False


def test_what_can_be_written_to_is_bounded(pod, container):
    (tmp,) = [volume for volume in pod["volumes"] if "emptyDir" in volume]

    assert tmp["emptyDir"]["sizeLimit"]
    assert {"name": tmp["name"], "mountPath": "/tmp"} in container["volumeMounts"]
    assert container["resources"]["limits"].keys() >= {"memory", "ephemeral-storage"}
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


def test_no_two_pods_ever_write_to_one_volume(manifests):
    spec, claim = manifests["Deployment"]["spec"], manifests["PersistentVolumeClaim"]["spec"]

    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    assert claim["accessModes"] == ["ReadWriteOnce"]


def test_states_are_written_to_the_volume(manifests, pod, container, settings):
    path = next(variable["value"] for variable in container["env"] if variable["name"] == "TTA_STORAGE__URL")
    mount = next(mount for mount in container["volumeMounts"] if mount["mountPath"] == path)
    volume = next(entry for entry in pod["volumes"] if entry["name"] == mount["name"])

    assert not mount.get("readOnly")
    assert volume["persistentVolumeClaim"]["claimName"] == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    assert settings.storage.url == ""  # what the variable adds to the file


def test_the_audit_log_takes_a_small_part_of_the_volume(manifests, settings):
    claim = manifests["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"]

    gib = int(claim.removesuffix("Gi"))
    assert settings.storage.audit_segment_bytes * settings.storage.audit_segments < 0.1 * gib * 2**30


def test_streams_leave_memory_for_the_model_and_the_images_of_requests(container, settings):
    limit = container["resources"]["limits"]["memory"]

    assert settings.streams.max_bytes + settings.streams.recent_bytes < 0.5 * int(limit.removesuffix("Gi")) * 2**30


def test_the_grace_period_covers_the_pause_the_drain_and_the_save(pod, container):
    pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    save_s = inspect.signature(Keeper.close).parameters["timeout_s"].default

    assert pause_s > 0
    assert pause_s + _DRAIN_S + save_s + 10 <= pod["terminationGracePeriodSeconds"]


def test_a_client_keeps_its_pod(manifests):
    assert manifests["Service"]["spec"]["sessionAffinity"] == "ClientIP"
