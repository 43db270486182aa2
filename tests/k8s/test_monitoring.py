"""What is watched with: every file that is named exists, and names agree with the server that is watched."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tta_server.settings_file import load_settings

LOOPBACK = "127.0.0.1:"


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "k8s/compose"


@pytest.fixture(scope="module")
def services(folder) -> dict[str, dict[str, Any]]:
    return read(folder / "compose.yaml")["services"]


def mounts(folder: Path, service: dict[str, Any]) -> dict[str, Path]:
    """Return the files that a service is given, by where it finds them."""
    parts = [volume.split(":") for volume in service["volumes"] if volume.startswith(".")]
    assert all(rights == ["ro"] for _, _, *rights in parts)
    return {target: folder / source for source, target, *_ in parts}


def test_each_file_that_a_container_is_given_exists(folder, services):
    found = {target: path for service in services.values() for target, path in mounts(folder, service).items()}

    assert len(found) == 5
    assert {str(path) for path in found.values() if not path.is_file()} == set()


def test_nobody_but_this_machine_reaches_a_container_and_each_image_has_a_version(services):
    for service in services.values():
        assert service["image"].partition(":")[2] not in ("", "latest")
        assert all(port.startswith(LOOPBACK) for port in service["ports"])


def test_the_servers_variables_are_settings_that_can_be_had(services, monkeypatch):
    for name, value in services["server"]["environment"].items():
        monkeypatch.setenv(name, value)

    settings = load_settings()

    assert settings.auth.insecure_public
    assert settings.storage.url.startswith(services["server"]["volumes"][0].split(":")[1])


def test_prometheus_reads_the_server_and_grafana_reads_prometheus_and_the_dashboard(folder, services):
    (job,) = read(folder / "prometheus.yaml")["scrape_configs"]
    (source,) = read(folder / "grafana/datasource.yaml")["datasources"]
    (provider,) = read(folder / "grafana/dashboards.yaml")["providers"]
    given = mounts(folder, services["grafana"])

    inside = {name: [port.rpartition(":")[2] for port in service["ports"]] for name, service in services.items()}
    assert job["static_configs"] == [{"targets": [f"server:{inside['server'][0]}"]}]
    assert source["url"] == f"http://prometheus:{inside['prometheus'][0]}"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in given
    assert str(Path(home).parent) == provider["options"]["path"]


def test_promtool_reads_what_prometheus_is_given(folder, services, promtool, tmp_path):
    text = (folder / "prometheus.yaml").read_text()
    for target, path in mounts(folder, services["prometheus"]).items():
        text = text.replace(target, str(path.resolve()))
    (tmp_path / "prometheus.yaml").write_text(text)

    checked = subprocess.run(
        [promtool, "check", "config", tmp_path / "prometheus.yaml"], capture_output=True, check=False, timeout=30
    )

    assert checked.returncode == 0, checked.stderr.decode()
