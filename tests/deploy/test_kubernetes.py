"""The kustomizations, as kubectl renders them: valid, locked down, and fit for this exporter."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import Manifests, validate
from tests.servers.process import missing

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
NAME = "celery-results-exporter"
OVERLAYS = ("standalone", "replicas", "sidecar")
COMPONENTS = sorted(path.name for path in (FOLDER / "components").iterdir())

every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@cache
def rendered(folder: Path) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:  # Debian's is too old for components
        missing("kubectl is not installed (https://kubernetes.io/docs/tasks/tools/)")
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(overlay: str) -> Manifests:
    return Manifests([rendered(FOLDER / overlay)])


@every_overlay
def test_overlay_is_valid_and_fit_for_the_exporter(overlay: str, tmp_path: Path) -> None:
    found = manifests(overlay)
    for one in found.objects:
        validate(one)
    found.check(found.configuration(tmp_path))
    annotations = found.template["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": "10224"}


@pytest.mark.parametrize("overlay", ["standalone", "replicas"])
def test_components_fit_each_overlay(overlay: str, tmp_path: Path) -> None:
    kustomization: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    here = os.path.relpath(FOLDER, tmp_path)
    kustomization["resources"] = [f"{here}/{overlay}"]
    kustomization["components"] = [f"{here}/components/{name}" for name in COMPONENTS]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    found = Manifests([rendered(tmp_path)])
    for one in found.objects:
        validate(one)
    kinds = {one["kind"] for one in found.objects}
    assert {"ServiceMonitor", "PodMonitor", "NetworkPolicy", "PodDisruptionBudget"} <= kinds
    found.check(found.configuration(tmp_path))
    for kind, endpoints in (("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")):
        (endpoint,) = found.of(kind)[NAME]["spec"][endpoints]
        assert endpoint["port"] == "metrics"


def test_kustomization_names_the_image_and_what_there_is() -> None:
    text = (FOLDER / "kustomization.yaml").read_text()
    for name in COMPONENTS:
        assert name in text
    (image,) = yaml.safe_load(text)["images"]
    found = manifests(".")
    assert found.exporter["image"] == f"{image['newName']}:{image['newTag']}"
    for overlay in OVERLAYS:
        assert manifests(overlay).exporter["image"] == f"{image['name']}:{image['newTag']}"


@pytest.mark.parametrize("overlay", ["standalone", "replicas"])
def test_configuration_loads_from_the_mounted_files(overlay: str, tmp_path: Path) -> None:
    (backend,) = manifests(overlay).configuration(tmp_path).backends
    assert backend.name == "orders"
    assert backend.url.host == "db.example"
    assert backend.url.password


def test_a_changed_configuration_is_a_new_pod() -> None:
    """The generators add a hash to the names that the pods mount."""
    (name,) = manifests("standalone").of("ConfigMap")
    assert name.startswith(f"{NAME}-")


def test_checkpoint_outlives_the_pod() -> None:
    found = manifests("standalone")
    (mount,) = (one for one in found.exporter["volumeMounts"] if not one.get("readOnly"))
    claim = found.of("PersistentVolumeClaim")[
        found.volume(mount)["persistentVolumeClaim"]["claimName"]
    ]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_checkpoint_of_the_sidecar_lives_as_long_as_its_results() -> None:
    """Neither results without their counts, nor counts without their results."""
    kept = {one["name"]: one for one in manifests("sidecar").pod["volumes"]}
    assert kept["checkpoint"] == {"name": "checkpoint", "emptyDir": {}}
    assert kept["results"] == {"name": "results", "emptyDir": {}}


def test_sidecar_reads_what_its_worker_writes(tmp_path: Path) -> None:
    found = manifests("sidecar")
    (worker,) = found.pod["containers"]
    urls = {found.environment(one)["CELERY_RESULT_BACKEND"] for one in (found.exporter, worker)}
    assert len(urls) == 1
    (backend,) = found.configuration(tmp_path).backends
    results = Path(str(backend.url.database)).parent
    for container, read_only in ((found.exporter, True), (worker, False)):
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "results")
        assert Path(mount["mountPath"]) == results
        assert mount.get("readOnly", False) == read_only
    assert found.exporter["restartPolicy"] == "Always"
