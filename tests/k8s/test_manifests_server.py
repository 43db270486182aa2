"""The manifests agree with the server that they run: settings, paths, metrics, times and sizes."""

import asyncio
import importlib.metadata
import inspect
import re
from pathlib import Path
from typing import get_args

import httpx
import pytest
import yaml

from tests.k8s.expressions import metrics_of
from tests.k8s.manifests import Rendered
from tests.pages import ROOT
from tests.replicas.balancer import CONFIG
from tta_server.app import build
from tta_server.grpc_door.door import DRAIN_S
from tta_server.runtime.served import FINISH_S
from tta_server.serve import _DRAIN_S
from tta_server.settings import Settings
from tta_server.settings_file import load_settings
from tta_server.telemetry.closed_sets import Stage
from tta_server.telemetry.webhook import Webhook

AT_REST_MIB = 652  # the most that `load_tests.hostile` has said of a server of the embedded model
ENDING_S = 5  # of the process, once everything is written
STATEFUL_SETS = (ROOT / "k8s/base/stateful-set.yaml", ROOT / "k8s/components/replicas/stateful-set.yaml")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


@pytest.fixture
def base(deployed) -> Rendered:
    return next(each for each in deployed if each.name == "base")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Return what reads a pod's configuration as its server does."""

    def read(way: Rendered) -> Settings:
        path = tmp_path / "config.yaml"
        path.write_text(way.one("ConfigMap")["data"]["config.yaml"])
        with monkeypatch.context() as environment:
            for name, value in way.variables().items():
                environment.setenv(name, value)
            environment.setenv("TTA_CONFIG", str(path))
            return load_settings()

    return read


def labelled(way: Rendered) -> set[str]:
    return {label for each in way.objects for label in each["metadata"].get("labels", {})}


def annotations(way: Rendered) -> dict[str, str]:
    return way.one("StatefulSet")["spec"]["template"]["metadata"]["annotations"]


def bytes_of(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) * 2**30


def test_every_pod_has_a_configuration_that_the_server_takes(deployed, settings):
    for way in deployed:
        got = settings(way)  # an unknown setting is refused
        variables = {name for name in way.variables() if name.startswith("TTA_")} - {"TTA_CONFIG"}

        for name in variables:
            section, _, field = name.removeprefix("TTA_").lower().partition("__")
            assert field in type(getattr(got, section)).model_fields, name
        assert got.server.host == "::"  # both families, whichever the cluster's is
        assert (got.auth.keys_file is None) == got.auth.insecure_public
        assert got.streams.max_streams >= 2 * got.streams.max_labelled >= 200  # a fleet has half of the places for sure


def test_every_port_is_the_one_that_the_server_listens_on(deployed, settings):
    for way in deployed:
        server = settings(way).server

        ports = {each["name"]: each["containerPort"] for each in way.container()["ports"]}
        assert ports == {"http": server.port} | ({"grpc": server.grpc_port} if server.grpc_port else {})
        assert annotations(way)["prometheus.io/port"] == str(server.port)


def test_files_that_are_named_are_mounted_there(deployed, settings):
    for way in deployed:
        got, volumes = settings(way), {volume["name"]: volume for volume in way.pod()["volumes"]}
        mounted = {mount["mountPath"]: (mount, volumes[mount["name"]]) for mount in way.container()["volumeMounts"]}

        config = Path(way.variables()["TTA_CONFIG"])
        assert config.name in way.one("ConfigMap", mounted[str(config.parent)][1]["configMap"]["name"])["data"]
        if got.auth.keys_file:
            assert "secret" in mounted[str(got.auth.keys_file.parent)][1]
        if "://" not in got.storage.url:
            mount, volume = mounted[got.storage.url]
            assert not mount.get("readOnly")
            assert "persistentVolumeClaim" in volume
        assert "emptyDir" in mounted["/tmp"][1]


def test_the_paths_that_kubernetes_and_prometheus_ask_for_answer(base, settings):
    app = build(settings(base).model_copy(update={"storage": Settings().storage})).app
    paths = [
        *(base.container()[probe]["httpGet"]["path"] for probe in PROBES),
        annotations(base)["prometheus.io/path"],
    ]

    async def ask() -> list[int]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://pod") as client,
        ):
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(ask()) == [200] * len(paths)


def test_the_audit_log_takes_a_small_part_of_the_volume(deployed, settings):
    for way in deployed:
        for claim in way.all("PersistentVolumeClaim"):
            got = settings(way).storage
            size = bytes_of(claim["spec"]["resources"]["requests"]["storage"])
            assert got.audit_segment_bytes * got.audit_segments < 0.1 * size


def test_streams_leave_memory_for_the_model_and_all_that_requests_may_take(deployed, settings, root):
    hostile = re.search(r"more than (\d+) MiB beyond", (root / "docs/security.md").read_text())
    assert hostile
    for way in deployed:
        got, limit = settings(way), bytes_of(way.container()["resources"]["limits"]["memory"])
        others = (AT_REST_MIB + int(hostile[1])) * 2**20
        assert got.streams.max_bytes + got.streams.recent_bytes + others < limit


def test_the_grace_period_covers_the_pause_the_drain_and_the_save(deployed, settings):
    webhooks_s = inspect.signature(Webhook.close).parameters["timeout_s"].default
    for way in deployed:
        pause_s = way.container()["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pause_s > 0
        answers_s = settings(way).server.drain_s + _DRAIN_S + DRAIN_S
        whole_s = pause_s + answers_s + FINISH_S + webhooks_s
        assert whole_s + ENDING_S <= way.pod()["terminationGracePeriodSeconds"]
        assert f": {whole_s:.0f} s, and some to end." in STATEFUL_SETS[way.most_replicas() > 1].read_text()


def test_the_page_says_how_long_a_stop_takes_and_what_platforms_give_it(deployed, root):
    webhooks_s = inspect.signature(Webhook.close).parameters["timeout_s"].default
    whole_s, page = _DRAIN_S + DRAIN_S + FINISH_S + webhooks_s, (root / "docs/operations.md").read_text()
    compose = yaml.safe_load((root / "k8s/compose/compose.yaml").read_text())["services"]["server"]["stop_grace_period"]

    assert f"Together that is {whole_s:.0f} s and `server.drain_s`" in page
    for each_s in (_DRAIN_S, DRAIN_S, FINISH_S, webhooks_s):
        assert f"| {each_s:.0f} s |" in page
    assert f"`stop_grace_period: {compose}`" in page
    assert whole_s + ENDING_S <= int(compose.removesuffix("s"))
    graces = {str(way.pod()["terminationGracePeriodSeconds"]) for way in deployed}
    assert graces == set(re.findall(r"(\d+) (?:in `k8s/base`|with `replicas`;)", page))


def test_the_image_is_the_packages_version_and_no_label_says_so_of_an_image_of_ones_own(deployed, base):
    assert base.container()["image"] == f"tta-server:{importlib.metadata.version('tta-server')}"
    for way in deployed:
        assert "app.kubernetes.io/version" not in labelled(way), way.name


def test_what_is_scaled_by_is_measured(deployed, families):
    measured = {name for names in families.values() for name in names}
    queries = {
        trigger["metadata"]["query"]
        for way in deployed
        for each in way.all("ScaledObject")
        for trigger in each["spec"]["triggers"]
    }

    assert queries
    for query in queries:
        assert metrics_of(query) <= measured
        stages = re.findall(r'stage=~"([^"]*)"', query)
        assert {stage for each in stages for stage in each.split("|")} <= set(get_args(Stage))


def test_a_queue_that_is_scaled_by_is_not_yet_full(deployed, settings):
    for way in deployed:
        for each in way.all("ScaledObject"):
            (threshold,) = [
                float(trigger["metadata"]["threshold"])
                for trigger in each["spec"]["triggers"]
                if "queue" in trigger["metadata"]["query"]
            ]
            assert threshold <= 0.5 * settings(way).engine.max_queue_rows


def test_servers_share_their_storage_and_find_one_another_where_there_may_be_several(deployed, settings):
    for way in deployed:
        got, several = settings(way), way.most_replicas() > 1
        assert got.storage.shared == several, way.name
        assert got.storage.peers == (way.one("StatefulSet")["spec"]["serviceName"] if several else "")
        assert not got.storage.replica  # the pod's name, which its Service knows it by
        policy = way.one("NetworkPolicy")["spec"]
        servers = {"matchLabels": {"app.kubernetes.io/name": "tta-server"}}
        assert servers in [source.get("podSelector") for rule in policy["ingress"] for source in rule["from"]]
        reached = [each["podSelector"] for rule in policy["egress"] for each in rule.get("to", ())]
        assert reached == [{"matchLabels": policy["podSelector"]["matchLabels"]}]


def test_a_replica_that_stops_answers_until_the_balancer_has_noticed(deployed, settings):
    found = re.search(r"check inter (\d+)ms fall (\d+) ", CONFIG)
    assert found

    for way in deployed:
        noticed_s = int(found[1]) / 1000 * int(found[2])
        assert way.most_replicas() == 1 or settings(way).server.drain_s > 2 * noticed_s


@pytest.mark.parametrize(("page", "whose"), [("deploy.md", "client"), ("replicas.md", "server")])
def test_an_ingress_as_the_pages_have_it_lets_through_what_a_server_takes_and_waits_as_haproxy_does(root, page, whose):
    said = dict(re.findall(r'^nginx.ingress.kubernetes.io/(.+): "(.+)"$', (root / "docs" / page).read_text(), re.M))
    waits = re.search(rf"timeout {whose} (\d+)s", CONFIG)

    assert said["proxy-body-size"] == f"{Settings().limits.max_body_bytes // 2**20}m"
    assert waits
    assert said["proxy-read-timeout"] == waits[1]


def test_in_an_update_the_next_replica_waits_until_names_are_known_anew(deployed):
    dns_s = 30  # how long CoreDNS keeps an answer, as clusters come
    for way in deployed:
        assert way.most_replicas() == 1 or way.one("StatefulSet")["spec"]["minReadySeconds"] >= dns_s


def test_the_balancer_knows_every_replica_that_there_may_be(deployed):
    for way in deployed:
        balancers = [each for each in way.all("ConfigMap") if "haproxy.cfg" in each["data"]]
        assert len(balancers) == (way.most_replicas() > 1)
        for each in balancers:
            config, stateful = each["data"]["haproxy.cfg"], way.one("StatefulSet")
            name, service = stateful["metadata"]["name"], stateful["spec"]["serviceName"]
            hosts = {n: f"{name}-{n}.{service}.${{NAMESPACE}}.svc.cluster.local" for n in range(8)}
            http = [f'server {name}-{n} "{host}:8000"' for n, host in hosts.items()]
            grpc = [f'server {name}-{n} "{host}:8001" track tta/{name}-{n}' for n, host in hosts.items()]
            assert re.findall(r"^ +(server .*)$", config, re.MULTILINE) == http + grpc
            assert way.most_replicas() <= len(hosts)
            assert f"GET {way.container()['readinessProbe']['httpGet']['path']}" in config
