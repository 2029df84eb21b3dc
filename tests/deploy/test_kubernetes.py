"""The manifests: valid for Kubernetes, locked down, and fit for this exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from exporter.config.loading import load
from exporter.config.settings import Config

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


def volume(deployment: dict, mount: dict) -> dict:
    (found,) = (one for one in pod(deployment)["volumes"] if one["name"] == mount["name"])
    return found


def environment(container: dict) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", [])}


def objects_beside(deployment: dict, kind: str) -> dict[str, dict]:
    """Return the objects of the same file, by name."""
    (file,) = (file for file, one in DEPLOYMENTS.items() if one is deployment)
    return {
        one["metadata"]["name"]: one
        for (path, _), one in OBJECTS.items()
        if path == file and one["kind"] == kind
    }


def configuration(deployment: dict, folder: Path) -> Config:
    """Lay the configuration out as Kubernetes would, and read it with the exporter's own loader."""
    container = exporter(deployment)
    argument = Path(container["args"][0].removeprefix("--config.file="))
    (mount,) = (
        one for one in container["volumeMounts"] if argument.parent == Path(one["mountPath"])
    )
    laid_out = volume(deployment, mount)
    sources = laid_out["projected"]["sources"] if "projected" in laid_out else [laid_out]
    for source in sources:
        kind, contents = ("Secret", "stringData") if "secret" in source else ("ConfigMap", "data")
        wanted = source.get("secret") or source["configMap"]
        data = objects_beside(deployment, kind)[wanted["name"]][contents]
        for item in wanted.get("items") or [{"key": key, "path": key} for key in data]:
            file = folder / item["path"]
            file.parent.mkdir(exist_ok=True)
            file.write_text(data[item["key"]])
    return load(folder / argument.name, environment(container))


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
def test_runs_as_many_as_its_checkpoint_has_room_for(deployment: dict, tmp_path: Path) -> None:
    """A file is one process's; in a database replicas take turns, and then no volume ties them."""
    spec = deployment["spec"]
    if isinstance(configuration(deployment, tmp_path).checkpoint, Path):
        assert spec["replicas"] == 1
        assert spec["strategy"] == {"type": "Recreate"}
    else:
        assert spec["replicas"] == 2
        assert "strategy" not in spec
        assert configuration(deployment, tmp_path).checkpoint is not None


@every_deployment
def test_rollout_ends(deployment: dict) -> None:
    """Where pods may stand by, which is not ready, being healthy must be enough to be available."""
    path = exporter(deployment)["readinessProbe"]["httpGet"]["path"]
    assert path == ("/-/ready" if deployment["spec"]["replicas"] == 1 else "/-/healthy")


@every_deployment
def test_writes_where_its_checkpoint_is_and_nowhere_else(deployment: dict, tmp_path: Path) -> None:
    checkpoint = configuration(deployment, tmp_path).checkpoint
    writable = [one for one in exporter(deployment)["volumeMounts"] if not one.get("readOnly")]
    folders = [str(checkpoint.parent)] if isinstance(checkpoint, Path) else []
    assert [one["mountPath"] for one in writable] == folders


def test_checkpoint_outlives_the_pod() -> None:
    deployment = DEPLOYMENTS["deployment.yaml"]
    (mount,) = (one for one in exporter(deployment)["volumeMounts"] if not one.get("readOnly"))
    name = volume(deployment, mount)["persistentVolumeClaim"]["claimName"]
    claim = objects_beside(deployment, "PersistentVolumeClaim")[name]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_checkpoint_of_the_sidecar_lives_as_long_as_its_results() -> None:
    """Neither results without their counts, nor counts without their results."""
    deployment = DEPLOYMENTS["sidecar.yaml"]
    kept = {one["name"]: one for one in pod(deployment)["volumes"]}
    assert kept["checkpoint"] == {"name": "checkpoint", "emptyDir": {}}
    assert kept["results"] == {"name": "results", "emptyDir": {}}


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


@every_deployment
def test_asks_for_little_and_is_probed(deployment: dict) -> None:
    container = exporter(deployment)
    assert container["resources"]["requests"]["memory"] == "96Mi"
    assert container["resources"]["limits"] == {"memory": "256Mi"}
    (port,) = container["ports"]
    assert port == {"name": "metrics", "containerPort": 10224}
    assert container["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"]["port"] == "metrics"
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
    for file in ("deployment.yaml", "replicas.yaml"):
        template = DEPLOYMENTS[file]["spec"]["template"]["metadata"]
        assert service["selector"].items() <= template["labels"].items()
    (port,) = service["ports"]
    assert port == {"name": "metrics", "port": 10224, "targetPort": "metrics"}


@pytest.mark.parametrize("file", ["deployment.yaml", "replicas.yaml"])
def test_configuration_loads_from_the_mounted_files(file: str, tmp_path: Path) -> None:
    (backend,) = configuration(DEPLOYMENTS[file], tmp_path).backends
    assert backend.name == "orders"
    assert backend.url.host == "db.example"
    assert backend.url.password


def test_sidecar_reads_what_its_worker_writes(tmp_path: Path) -> None:
    deployment = DEPLOYMENTS["sidecar.yaml"]
    (worker,) = pod(deployment)["containers"]
    sidecar = exporter(deployment)
    urls = [environment(one)["CELERY_RESULT_BACKEND"] for one in (sidecar, worker)]
    assert len(set(urls)) == 1
    (backend,) = configuration(deployment, tmp_path).backends
    results = Path(str(backend.url.database)).parent
    for container, read_only in ((sidecar, True), (worker, False)):
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "results")
        assert Path(mount["mountPath"]) == results
        assert mount.get("readOnly", False) == read_only
    assert sidecar["restartPolicy"] == "Always"
