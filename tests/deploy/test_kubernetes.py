"""The manifests: valid for Kubernetes, locked down, and fit for this exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter.config import from_url, load

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    (path.name, f"{one['kind']}/{one['metadata']['name']}"): one
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for one in yaml.safe_load_all(path.read_text())
}
DEPLOYMENTS = {key[0]: one for key, one in OBJECTS.items() if one["kind"] == "Deployment"}
NAME = "celery-results-exporter"

every_deployment = pytest.mark.parametrize(
    "deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS.keys()
)


def pod(deployment: dict) -> dict:
    return deployment["spec"]["template"]["spec"]


def exporter(deployment: dict) -> dict:
    spec = pod(deployment)
    (container,) = (
        one
        for one in spec["containers"] + spec.get("initContainers", [])
        if one["name"] == "exporter"
    )
    return container


@pytest.mark.parametrize("manifest", OBJECTS.values(), ids=[" ".join(key) for key in OBJECTS])
def test_is_valid_for_kubernetes_1_32(manifest: dict) -> None:
    """Strictly: a field that Kubernetes does not know is a fault, too."""
    kubernetes_validate.validate(manifest, "1.32", strict=True)


def test_kustomization_takes_what_belongs_together() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == {"deployment.yaml", "service.yaml"}
    (image,) = kustomization["images"]
    for deployment in DEPLOYMENTS.values():
        assert exporter(deployment)["image"] == f"{image['name']}:{image['newTag']}"


@every_deployment
def test_selects_its_own_pods(deployment: dict) -> None:
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


@every_deployment
def test_never_runs_two_at_once(deployment: dict) -> None:
    """Two exporters of one backend would double every sum."""
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


@every_deployment
def test_is_locked_down(deployment: dict) -> None:
    assert exporter(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    context = pod(deployment)["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(deployment)["automountServiceAccountToken"] is False
    assert pod(deployment)["enableServiceLinks"] is False
    assert all(mount["readOnly"] for mount in exporter(deployment)["volumeMounts"])


@every_deployment
def test_asks_for_little_and_is_probed(deployment: dict) -> None:
    container = exporter(deployment)
    assert container["resources"]["requests"]["memory"] == "96Mi"
    assert container["resources"]["limits"] == {"memory": "128Mi"}
    (port,) = container["ports"]
    assert port == {"name": "metrics", "containerPort": 10224}
    assert container["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/ready", "port": "metrics"}
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": "10224"}


@every_deployment
def test_mounts_volumes_that_exist(deployment: dict) -> None:
    spec = pod(deployment)
    mounted = {
        mount["name"]
        for container in spec["containers"] + spec.get("initContainers", [])
        for mount in container["volumeMounts"]
    }
    assert mounted == {volume["name"] for volume in spec["volumes"]}


def test_service_leads_to_the_exporter() -> None:
    service = OBJECTS["service.yaml", f"Service/{NAME}"]["spec"]
    template = DEPLOYMENTS["deployment.yaml"]["spec"]["template"]["metadata"]
    assert service["selector"].items() <= template["labels"].items()
    (port,) = service["ports"]
    assert port == {"name": "metrics", "port": 10224, "targetPort": "metrics"}


def test_configuration_loads_from_the_mounted_files(tmp_path: Path) -> None:
    """The volume is laid out as Kubernetes would, and read by the exporter's own loader."""
    contents = {
        "configMap": OBJECTS["deployment.yaml", f"ConfigMap/{NAME}"]["data"],
        "secret": OBJECTS["deployment.yaml", f"Secret/{NAME}"]["stringData"],
    }
    (volume,) = pod(DEPLOYMENTS["deployment.yaml"])["volumes"]
    for source in volume["projected"]["sources"]:
        ((kind, wanted),) = source.items()
        assert wanted["name"] == NAME
        for item in wanted["items"]:
            file = tmp_path / item["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_text(contents[kind][item["key"]])
    container = exporter(DEPLOYMENTS["deployment.yaml"])
    (mount,) = container["volumeMounts"]
    assert container["args"][0] == f"--config.file={mount['mountPath']}/config.yaml"
    (backend,) = load(tmp_path / "config.yaml", {}).backends
    assert backend.name == "orders"
    assert backend.url.host == "db.example"
    assert backend.url.password


def test_sidecar_reads_what_its_worker_writes() -> None:
    deployment = DEPLOYMENTS["sidecar.yaml"]
    (worker,) = pod(deployment)["containers"]
    sidecar = exporter(deployment)
    urls = [
        variable["value"]
        for container in (sidecar, worker)
        for variable in container["env"]
        if variable["name"] == "CELERY_RESULT_BACKEND"
    ]
    assert len(urls) == 2
    assert len(set(urls)) == 1
    (backend,) = from_url(urls[0]).backends
    for container in (sidecar, worker):
        (mount,) = container["volumeMounts"]
        assert Path(str(backend.url.database)).parent == Path(mount["mountPath"])
    assert sidecar["restartPolicy"] == "Always"
