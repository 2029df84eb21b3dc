"""What Kubernetes and this exporter demand of manifests, whoever renders them.

``schemas/monitoring.coreos.com_v1.json`` says what the Prometheus Operator 0.80.1 takes: the models
of the package cloudcoil-models-prometheus-operator 0.80.1.0 (Apache-2.0), by ``model_json_schema``,
without descriptions, metadata and null, closed to unknown fields, and with its one ``(?i)`` where
Python wants it.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import kubernetes_validate
import yaml

from exporter.config.loading import load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.config.settings import Config

KUBERNETES = "1.32"
OPERATOR = json.loads(
    (Path(__file__).parent / "schemas" / "monitoring.coreos.com_v1.json").read_text()
)
LOCKED_DOWN = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def validate(manifest: dict[str, Any]) -> None:
    """Raise unless Kubernetes or the operator takes it; a field they do not know is a fault."""
    if manifest["apiVersion"] == "monitoring.coreos.com/v1":
        jsonschema.validate(manifest, OPERATOR[manifest["kind"]])
    else:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


class Manifests:
    """Objects that are applied together, with one Deployment among them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.objects: list[dict[str, Any]] = [
            one for text in texts for one in yaml.safe_load_all(text) if one
        ]
        (self.deployment,) = self.of("Deployment").values()
        self.template = self.deployment["spec"]["template"]
        self.pod = self.template["spec"]
        (self.exporter,) = (
            one
            for one in self.pod["containers"] + self.pod.get("initContainers", [])
            if one["name"] == "exporter"
        )

    def of(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the objects of a kind by name."""
        return {one["metadata"]["name"]: one for one in self.objects if one["kind"] == kind}

    def volume(self, mount: dict[str, Any]) -> dict[str, Any]:
        (found,) = (one for one in self.pod["volumes"] if one["name"] == mount["name"])
        return found

    def mount(self, path: str) -> dict[str, Any]:
        (found,) = (one for one in self.exporter["volumeMounts"] if one["mountPath"] == path)
        return found

    def flag(self, name: str) -> str:
        (found,) = (one for one in self.exporter["args"] if one.startswith(f"{name}="))
        return found.removeprefix(f"{name}=")

    def data(self, kind: str, name: str) -> dict[str, str]:
        """Return the content of a Secret or ConfigMap, as text."""
        found = self.of(kind)[name]
        encoded = found.get("data", {}) if kind == "Secret" else {}
        plain = found.get("stringData", {}) if kind == "Secret" else found["data"]
        return plain | {key: base64.b64decode(text).decode() for key, text in encoded.items()}

    def lay_out(self, flag: str, folder: Path, elsewhere: dict[str, str]) -> Path:
        """Put the file that a flag names where Kubernetes would, with all beside it.

        What comes from objects that are not among these is taken from ``elsewhere``, by its key.
        """
        file = Path(self.flag(flag))
        volume = self.volume(self.mount(str(file.parent)))
        for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
            kind = "Secret" if "secret" in source else "ConfigMap"
            wanted = source.get("secret") or source["configMap"]
            known = wanted["name"] in self.of(kind)
            data = self.data(kind, wanted["name"]) if known else elsewhere
            for item in wanted.get("items") or [{"key": key, "path": key} for key in data]:
                target = folder / item["path"]
                target.parent.mkdir(exist_ok=True)
                target.write_text(data[item["key"]])
        return folder / file.name

    def environment(
        self, container: dict[str, Any], elsewhere: dict[str, str] | None = None
    ) -> dict[str, str]:
        """Return the variables of a container; those from unknown Secrets from ``elsewhere``."""
        found = dict(elsewhere or {}) if container.get("envFrom") else {}
        for one in container.get("env", []):
            secret = one.get("valueFrom", {}).get("secretKeyRef")
            if secret is None:
                found[one["name"]] = one["value"]
            elif secret["name"] in self.of("Secret"):
                found[one["name"]] = self.data("Secret", secret["name"])[secret["key"]]
            else:
                found[one["name"]] = (elsewhere or {})[secret["key"]]
        return found

    def configuration(self, folder: Path, elsewhere: dict[str, str] | None = None) -> Config:
        """Read the configuration with the exporter's own loader."""
        file = self.lay_out("--config.file", folder, elsewhere or {})
        return load(file, self.environment(self.exporter, elsewhere))

    def check(self, config: Config) -> None:
        """Fail unless the pod is locked down, probed, and fit for its checkpoint."""
        checkpoint, spec = config.checkpoint, self.deployment["spec"]
        for container in self.pod["containers"] + self.pod.get("initContainers", []):
            assert container["securityContext"] == LOCKED_DOWN
            assert container["resources"]["limits"].keys() == {"memory"}
        context = self.pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == context["fsGroup"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert self.pod["automountServiceAccountToken"] is False
        assert self.pod["enableServiceLinks"] is False

        labels = self.template["metadata"]["labels"]
        assert spec["selector"]["matchLabels"].items() <= labels.items()
        for service in self.of("Service").values():
            assert service["spec"]["selector"].items() <= labels.items()
            (port,) = service["spec"]["ports"]
            assert port == {"name": "metrics", "port": 10224, "targetPort": "metrics"}
        assert self.exporter["ports"] == [{"name": "metrics", "containerPort": 10224}]
        assert self.exporter["resources"]["requests"]["memory"] == "96Mi"
        assert self.exporter["resources"]["limits"]["memory"] == "256Mi"
        assert ":latest" not in self.exporter["image"]

        # A file is one process's, and writable; replicas share a database, and write to no file.
        writable = [
            one["mountPath"] for one in self.exporter["volumeMounts"] if not one.get("readOnly")
        ]
        if isinstance(checkpoint, Path):
            assert writable == [str(checkpoint.parent)]
        else:
            assert writable == []
        shared = checkpoint is not None and not isinstance(checkpoint, Path)
        assert (spec.get("strategy") == {"type": "Recreate"}) is not shared
        assert shared or spec["replicas"] == 1

        # A rollout ends: where another pod may be the one that reads, being healthy must be enough.
        ready = self.exporter["readinessProbe"]
        if "httpGet" in ready:
            assert ready["httpGet"]["path"] == ("/-/healthy" if shared else "/-/ready")
            assert self.exporter["livenessProbe"]["httpGet"]["path"] == "/-/healthy"

        mounted = {
            mount["name"]
            for container in self.pod["containers"] + self.pod.get("initContainers", [])
            for mount in container["volumeMounts"]
        }
        assert mounted == {volume["name"] for volume in self.pod["volumes"]}
        for kind in ("ServiceMonitor", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"):
            for one in self.of(kind).values():
                selector = one["spec"].get("selector") or one["spec"]["podSelector"]
                assert selector["matchLabels"].items() <= labels.items()
