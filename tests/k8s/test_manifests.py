"""Every way to deploy is what a cluster accepts, with what only its API server would refuse."""

import itertools
import json
import os
import re
import shutil

import kubernetes_validate
import pytest

from tests.k8s.manifests import FOLDERS, K8S, Manifest, Rendered, kustomize, matches

VERSIONS = ("1.33", "1.35", kubernetes_validate.latest_version())
# Of operators: no Kubernetes knows their schemas.
OPERATORS = {"PrometheusRule", "ScaledObject", "ServiceMonitor"}
# What the operator makes by hand, as the components say.
SECRETS = {"tta-server-keys", "tta-server-s3", "tta-server-metrics"}
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
UNITS = {"m": 1e-3, "": 1.0, "Mi": 2.0**20, "Gi": 2.0**30}


def amount(text: str) -> float:
    """Return what a quantity says, as a number."""
    found = re.fullmatch(r"([\d.]+)(\D*)", text)
    assert found
    return float(found[1]) * UNITS[found[2]]


def labels(workload: Manifest) -> dict[str, str]:
    return workload["spec"]["template"]["metadata"]["labels"]


def pods(deployed: list[Rendered]) -> list[tuple[Rendered, Manifest]]:
    return [(way, each["spec"]["template"]["spec"]) for way in deployed for each in way.workloads()]


def containers(deployed: list[Rendered]) -> list[Manifest]:
    return [container for _, pod in pods(deployed) for container in pod["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_to_the_letter(everything, version):
    different = {json.dumps(each, sort_keys=True) for way in everything for each in way.objects}

    for text in different:
        manifest = json.loads(text)
        if manifest["kind"] not in OPERATORS:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_each_kustomization_uses_every_file_beside_it(folder):
    written = (folder / "kustomization.yaml").read_text()
    beside = {path.name for path in folder.iterdir() if path.suffix in {".yaml", ".cfg", ".json"}}

    unused = {name for name in beside - {"kustomization.yaml"} if not re.search(rf"[- \[]{re.escape(name)}\b", written)}
    assert unused <= {"rules.yaml"}  # for a Prometheus without its operator


def test_each_file_says_why_it_is_so():
    silent = [
        str(path)
        for folder in FOLDERS
        for path in folder.glob("*.yaml")
        if not path.read_text().startswith("#") and path.name != "kustomization.yaml"
    ]

    assert silent == []


def test_nothing_is_there_twice_or_without_the_labels_that_tell_what_it_is(deployed):
    wanted = {f"app.kubernetes.io/{key}" for key in ("name", "component", "part-of")}
    for way in deployed:
        names = [(each["kind"], each["metadata"]["name"]) for each in way.objects]
        assert len(names) == len(set(names))
        for workload in way.workloads():
            assert wanted <= labels(workload).keys()
        for each in () if way.all("ServiceMonitor") else way.objects:  # what monitors has labels that others look for
            assert wanted <= each["metadata"].get("labels", {}).keys(), (way.name, each["kind"])


def test_each_selector_finds_the_pods_of_one_workload(deployed):
    for way in deployed:
        selectors = [
            *(each["spec"]["selector"]["matchLabels"] for each in way.all("PodDisruptionBudget")),
            *(each["spec"]["podSelector"]["matchLabels"] for each in way.all("NetworkPolicy")),
            *(each["spec"]["selector"] for each in way.all("Service")),
            *(each["spec"]["selector"]["matchLabels"] for each in way.workloads()),
            *(
                spread["labelSelector"]["matchLabels"]
                for _, pod in pods([way])
                for spread in pod.get("topologySpreadConstraints", [])
            ),
        ]
        for selector in selectors:
            assert sum(matches(selector, labels(workload)) for workload in way.workloads()) == 1, (way.name, selector)


def test_each_workload_has_a_budget_a_policy_and_a_service(deployed):
    for way in deployed:
        for workload in way.workloads():
            for kind, where in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
                found = [each for each in way.all(kind)
                         if matches(each["spec"][where]["matchLabels"], labels(workload))]  # fmt: skip
                assert len(found) == 1, (way.name, kind)
        stateful = way.one("StatefulSet")
        headless = way.one("Service", stateful["spec"]["serviceName"])
        assert headless["spec"]["clusterIP"] == "None"
        assert matches(headless["spec"]["selector"], labels(stateful))


def test_no_budget_keeps_a_node_from_being_drained(deployed):
    for way in deployed:
        for budget in way.all("PodDisruptionBudget"):
            assert budget["spec"]["maxUnavailable"] >= 1
            assert "minAvailable" not in budget["spec"]
            assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_each_port_that_is_named_is_one_of_a_container(deployed):
    for way in deployed:
        ports = {port["name"]: port["containerPort"] for container in containers([way]) for port in container["ports"]}
        services = way.all("Service")
        named = [
            *(port["targetPort"] for service in services for port in service["spec"]["ports"]),
            *(each[probe]["httpGet"]["port"] for each in containers([way]) for probe in PROBES if probe in each),
            *(
                port["port"]
                for policy in way.all("NetworkPolicy")
                for rule in (*policy["spec"]["ingress"], *policy["spec"]["egress"])
                for port in rule["ports"]
                if port["port"] not in (53, 443, 5353)
            ),
        ]  # fmt: skip
        assert set(named) == set(ports)
        assert all(port["port"] == ports[port["targetPort"]] for each in services for port in each["spec"]["ports"])


def test_each_mount_has_a_volume_and_each_volume_a_mount_and_a_source(deployed):
    for way, pod in pods(deployed):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = [mount for container in pod["containers"] for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in mounts} == set(volumes)
        assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
        for volume in volumes.values():
            if "configMap" in volume:
                way.one("ConfigMap", volume["configMap"]["name"])
            elif "persistentVolumeClaim" in volume:
                way.one("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            elif "secret" in volume:
                assert volume["secret"]["secretName"] in SECRETS
            else:
                assert volume["emptyDir"]["sizeLimit"]


def test_each_claim_is_mounted_and_each_account_is_used(deployed):
    for way in deployed:
        claimed = {volume["persistentVolumeClaim"]["claimName"] for _, pod in pods([way]) for volume in pod["volumes"]
                   if "persistentVolumeClaim" in volume}  # fmt: skip
        assert {each["metadata"]["name"] for each in way.all("PersistentVolumeClaim")} == claimed
        assert way.pod()["serviceAccountName"] == way.one("ServiceAccount")["metadata"]["name"]
        secrets = {source["secretRef"]["name"] for source in way.container().get("envFrom", [])}
        assert secrets <= SECRETS


def test_no_limit_is_below_what_is_requested_and_nothing_that_can_be_written_to_has_none(deployed):
    for container in containers(deployed):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert "memory" in limits
        assert "cpu" in requests
        assert "cpu" not in limits
        assert all(amount(limits[what]) >= amount(requests[what]) for what in limits.keys() & requests.keys())


def test_each_variable_is_set_once(deployed):
    for container in containers(deployed):
        names = [variable["name"] for variable in container["env"]]
        assert len(names) == len(set(names))


def test_probes_let_a_server_start_and_restart_it_later_than_they_take_it_from_the_balancer(deployed):
    for container in containers(deployed):
        lasts = {
            probe: container[probe]["failureThreshold"] * container[probe]["periodSeconds"]
            for probe in PROBES
            if probe in container
        }
        assert all(container[probe].get("timeoutSeconds", 1) <= container[probe]["periodSeconds"] for probe in lasts)
        assert lasts["readinessProbe"] < lasts["livenessProbe"]
        if "startupProbe" in lasts:
            assert lasts["startupProbe"] >= 60


def test_every_pod_meets_the_restricted_security_standard(everything, deployed):
    jobs = [(way, each["spec"]["template"]["spec"]) for way in everything for each in way.all("Job")]

    assert jobs
    for way, pod in (*jobs, *pods(deployed)):
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert way.on_openshift() or pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "initContainers"))
        kinds = {kind for volume in pod["volumes"] for kind in volume} - {"name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_openshift_gives_users_and_groups_and_answers_names_on_a_port_of_its_own(deployed):
    for way in deployed:
        for _, pod in pods([way]):
            fixed = {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys()
            assert bool(fixed) != way.on_openshift(), way.name
        for policy in way.all("NetworkPolicy"):
            out = {(port["port"], port["protocol"]) for rule in policy["spec"]["egress"] for port in rule["ports"]}
            asks = [{(port, protocol) for protocol in ("TCP", "UDP")} for port in (53, 5353)]
            assert [each <= out for each in asks] == [True, way.on_openshift()], way.name


def test_several_servers_never_write_to_a_volume_that_one_server_can_have(deployed):
    for way in deployed:
        modes = [mode for claim in way.all("PersistentVolumeClaim") for mode in claim["spec"]["accessModes"]]
        assert modes in ([], ["ReadWriteMany"] if way.most_replicas() > 1 else ["ReadWriteOnce"]), way.name


def test_the_number_of_replicas_has_one_master(deployed):
    for way in deployed:
        assert ("replicas" in way.one("StatefulSet")["spec"]) == (not way.all("ScaledObject"))


def test_the_monitor_reads_each_pod_once(everything):
    watched = [way for way in everything if way.workloads() and way.all("ServiceMonitor")]

    assert watched
    for way in watched:
        monitor = way.one("ServiceMonitor")["spec"]
        services = [each["spec"] for each in way.all("Service")
                    if matches(monitor["selector"]["matchLabels"], each["metadata"]["labels"])]  # fmt: skip
        assert all(service["clusterIP"] == "None" for service in services)
        read = [
            (workload["metadata"]["name"], port["targetPort"])
            for service, endpoint in itertools.product(services, monitor["endpoints"])
            for port in service["ports"]
            if port["name"] == endpoint["port"]
            for workload in way.workloads()
            if matches(service["selector"], labels(workload))
        ]
        assert sorted(read) == [("tta-server", "http"), ("tta-server-balancer", "metrics")][: len(way.workloads())]
        assert {endpoint["path"] for endpoint in monitor["endpoints"]} == {"/metrics"}


def test_prometheus_gets_in_where_metrics_are_and_whoever_reads_pods_by_annotations_finds_them(deployed):
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for way in deployed:
        for workload in way.workloads():
            template = workload["spec"]["template"]
            ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
            (named,) = [
                port["port"]
                for policy in way.all("NetworkPolicy")
                if matches(policy["spec"]["podSelector"]["matchLabels"], labels(workload))
                for rule in policy["spec"]["ingress"]
                if prometheus in rule["from"]
                for port in rule["ports"]
                if port["port"] != "grpc"
            ]
            assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports[named])


def test_where_keys_are_asked_for_the_monitor_has_one(everything):
    for way in everything:
        for monitor in way.all("ServiceMonitor"):
            asked = bool(way.workloads()) and "TTA_AUTH__KEYS_FILE" in way.variables()
            assert ("authorization" in monitor["spec"]["endpoints"][0]) == asked


def test_clients_reach_the_service_and_pass_no_balancer_by(deployed):
    client = {"matchLabels": {"tta-server/client": "true"}}
    for way in deployed:
        entered = [
            policy["spec"]["podSelector"]["matchLabels"]
            for policy in way.all("NetworkPolicy")
            for rule in policy["spec"]["ingress"]
            for source in rule["from"]
            if source.get("podSelector") == client
        ]
        assert entered == [way.one("Service")["spec"]["selector"]]


def test_a_label_finds_the_claim_and_nothing_else(deployed):
    for way in deployed:  # so the runbook makes a claim before the rest
        found = [each["kind"] for each in way.objects if "tta-server/storage" in each["metadata"].get("labels", {})]
        assert found == ["PersistentVolumeClaim"] * len(way.all("PersistentVolumeClaim"))


def test_all_that_the_example_offers_can_be_taken(tmp_path):
    example = K8S / "example"
    shutil.copy(example / "namespace.yaml", tmp_path)
    shutil.copy(K8S / "base/config.yaml", tmp_path)
    with (tmp_path / "config.yaml").open("a") as config:
        config.write("# mine")
    written = (example / "kustomization.yaml").read_text().replace("../", f"{os.path.relpath(K8S, tmp_path)}/")
    taken, mark, offered = written.partition("# What else is often yours; take away the sign of a comment:\n")
    (tmp_path / "kustomization.yaml").write_text(taken + re.sub("^# ", "", offered, flags=re.MULTILINE))

    got = Rendered("mine", kustomize(tmp_path))

    assert mark
    assert got.variables()["TTA_STORAGE__URL"] == "/var/lib/tta/my-model-2"
    assert got.one("PersistentVolumeClaim", "tta-server-shared")["spec"]["storageClassName"] == "nfs"
    assert got.one("ConfigMap")["data"]["config.yaml"].endswith("# mine")
    assert got.all("Deployment")


def test_what_is_applied_together_is_restricted_by_its_namespace(everything):
    (example,) = [way for way in everything if way.name == "example"]

    space = example.one("Namespace", "tta")
    assert space["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert {each["metadata"].get("namespace") for each in example.objects if each is not space} == {"tta"}
