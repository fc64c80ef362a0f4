"""Kubernetes manifests: valid for several versions, and of one mind with Envoy, the secrets and the
server's settings. No cluster is needed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.settings import Settings

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DOCUMENTS: list[dict[str, Any]] = [
    document for path in FILES for document in yaml.safe_load_all(path.read_text("utf-8"))
]
WORKLOADS = [document for document in DOCUMENTS if "template" in document.get("spec", {})]
VERSIONS = ("1.32", kubernetes_validate.latest_version())


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}-{document['metadata']['name']}"


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = workload["spec"]["template"]["spec"]
    return found


def one(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in DOCUMENTS if named(each) == f"{kind}-{name}")
    return found


def settings(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container.get("env", ())}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_a_manifest_fits_the_schema(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_a_mistake_is_noticed() -> None:
    document = one("Deployment", "hope-envoy")
    broken = document | {"spec": document["spec"] | {"replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_pods_are_found_by_what_selects_them(workload: dict[str, Any]) -> None:
    name = workload["metadata"]["name"]
    labels = workload["spec"]["template"]["metadata"]["labels"]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    assert one("PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"] == labels
    assert one("NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == labels
    assert workload["spec"]["replicas"] > one("PodDisruptionBudget", name)["spec"]["maxUnavailable"]
    services = [
        each
        for each in DOCUMENTS
        if each["kind"] == "Service" and each["metadata"]["labels"] == labels
    ]
    (container,) = pod(workload)["containers"]
    ports = {port["containerPort"] for port in container["ports"]}
    assert services
    assert {port["port"] for each in services for port in each["spec"]["ports"]} == ports


def test_what_may_enter_a_pod_is_a_port_of_it() -> None:
    for workload in WORKLOADS:
        (container,) = pod(workload)["containers"]
        ports = {port["name"] for port in container["ports"]}
        policy = one("NetworkPolicy", workload["metadata"]["name"])["spec"]
        allowed = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
        assert allowed == ports
    # Users reach the servers through Envoy alone.
    envoy = one("Deployment", "hope-envoy")["spec"]["template"]["metadata"]["labels"]
    users = one("NetworkPolicy", "hope")["spec"]["ingress"][0]
    assert users["from"] == [{"podSelector": {"matchLabels": envoy}}]
    assert [port["port"] for port in users["ports"]] == ["grpc", "http"]


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_nothing_runs_as_root_or_writes_into_its_image(workload: dict[str, Any]) -> None:
    (container,) = pod(workload)["containers"]
    assert pod(workload)["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    # Where the server's image writes, there is a volume.
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text("utf-8")
    written = set(re.findall(r'"(/var/[a-z/]+)"', dockerfile))
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert len(written) == 2
    assert workload["kind"] == "Deployment" or written <= mounts
    volumes = {volume["name"] for volume in pod(workload)["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("workload", WORKLOADS, ids=named)
def test_a_pod_has_the_time_that_it_needs_to_end(workload: dict[str, Any]) -> None:
    (container,) = pod(workload)["containers"]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drains = float(settings(container).get("HOPE_DRAIN_SECONDS", 0))
    assert pod(workload)["terminationGracePeriodSeconds"] > waits + drains


def test_the_servers_settings_are_settings_and_its_ports_are_served() -> None:
    (container,) = pod(one("StatefulSet", "hope"))["containers"]
    values = settings(container)
    fields = {f"HOPE_{name.upper()}": name for name in Settings.model_fields}
    assert values.keys() <= fields.keys()
    made = Settings(**{fields[name]: value for name, value in values.items()})
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": made.port, "http": made.http_port, "metrics": made.metrics_port}
    assert str(made.threads) == container["resources"]["requests"]["cpu"]
    # The gateway speaks HTTPS where there is a certificate, and so do the probes.
    assert made.tls_cert_file
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked == {"path": "/health", "port": "http", "scheme": "HTTPS"}


def test_secrets_are_those_that_secrets_sh_makes() -> None:
    script = (DEPLOY / "secrets.sh").read_text("utf-8")
    (container,) = pod(one("StatefulSet", "hope"))["containers"]
    files = [
        Path(value) for value in settings(container).values() if value.startswith("/run/secrets/")
    ]
    assert len(files) > 3
    assert all(path.name in script for path in files)
    (secret,) = (
        volume["secret"]
        for volume in pod(one("Deployment", "hope-envoy"))["volumes"]
        if "secret" in volume
    )
    configured = set(re.findall(r"/run/secrets/([a-z.]+)", (DEPLOY / "envoy.yaml").read_text()))
    assert {item["key"] for item in secret["items"]} == configured
    names = set(re.findall(r"DNS:([a-z0-9-]+)", script))
    services = {each["metadata"]["name"] for each in DOCUMENTS if each["kind"] == "Service"}
    assert services - {"hope-replicas"} <= names


def test_envoy_knows_every_replica_by_its_name() -> None:
    envoy = yaml.safe_load((DEPLOY / "envoy.yaml").read_text("utf-8"))["static_resources"]
    replicas = one("StatefulSet", "hope")["spec"]
    first = replicas["ordinals"]["start"]
    pods = {f"hope-{first + index}" for index in range(replicas["replicas"])}
    for name in pods:
        service = one("Service", name)["spec"]
        assert service["selector"] == {"statefulset.kubernetes.io/pod-name": name}
    (container,) = pod(one("Deployment", "hope-envoy"))["containers"]
    listening = {each["address"]["socket_address"]["port_value"] for each in envoy["listeners"]}
    assert listening == {port["containerPort"] for port in container["ports"]}
    for cluster in envoy["clusters"]:
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        hosts = endpoints["lb_endpoints"]
        assert {host["endpoint"]["hostname"] for host in hosts} == pods
        for host in hosts:
            address = host["endpoint"]["address"]["socket_address"]
            name = host["endpoint"]["hostname"]
            assert address["address"] == name
            assert host["metadata"]["filter_metadata"]["envoy.lb"] == {"hash_key": name}
            assert address["port_value"] in {
                port["port"] for port in one("Service", name)["spec"]["ports"]
            }
