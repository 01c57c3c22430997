"""The Kubernetes manifests as Helm renders them, against rules of our own.

`python deploy/check.py` renders the chart and holds it against Kubernetes' schemas; here is what a
schema does not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from understudy.cloud.config import CloudConfig, read_config
from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.serve_render import check_serve_config
from understudy.cloud.teacher.spec import TeacherSpec
from understudy.distill_loop.recipe import Recipe
from understudy.edge.config import EdgeConfig
from understudy.types.config import build_config, parse_config
from unit.deploy.commands import check

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
BASE = DEPLOY / "kustomize" / "base" / "understudy.yaml"
GPU = DEPLOY / "kustomize" / "overlays" / "gpu"
MANIFESTS: list[dict[str, Any]] = [d for d in yaml.safe_load_all(BASE.read_text()) if d]
ENVIRONMENT = {"UNDERSTUDY_REDIS": "redis://redis:6379/0"}


def _pods(value: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod of a manifest, however deep; a RayService's lie inside its groups."""
    if isinstance(value, dict):
        if "containers" in value:
            yield name, value
        for key, inner in value.items():
            yield from _pods(inner, f"{name}/{key}" if key == "headGroupSpec" else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _pods(inner, name)


PODS = [p for m in MANIFESTS for p in _pods(m, f"{m['kind']}/{m['metadata']['name']}")]


# The fields of KubeRay 1.7's types in ray.io/v1, by the object they stand in.
KUBERAY = {
    "spec": {
        *("rayClusterConfig", "serveConfigV2", "serveService", "suspend", "upgradeStrategy"),
        *("excludeHeadPodFromServeSvc", "rayClusterDeletionDelaySeconds", "managedBy"),
    },
    "rayClusterConfig": {
        *("autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "suspend"),
        *("headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "workerGroupSpecs"),
    },
    "headGroupSpec": {"template", "rayStartParams", "headService", "enableIngress", "serviceType"},
    "workerGroupSpecs": {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "suspend"),
        *("numOfHosts", "rayStartParams", "scaleStrategy", "template"),
    },
    "autoscalerOptions": {
        *("env", "envFrom", "idleTimeoutSeconds", "image", "imagePullPolicy", "resources"),
        *("securityContext", "upscalingMode", "version", "volumeMounts"),
    },
}


def unknown_fields(name: str, value: Any) -> set[str]:
    """Fields that KubeRay does not know, as `object.field`, however deep."""
    known = KUBERAY.get(name)
    if isinstance(value, list):
        return {field for inner in value for field in unknown_fields(name, inner)}
    if known is None or not isinstance(value, dict):
        return set()
    found = {f"{name}.{key}" for key in value.keys() - known}
    return found.union(*(unknown_fields(key, inner) for key, inner in value.items()))


def named(kind: str, name: str) -> dict[str, Any]:
    return next(m for m in MANIFESTS if (m["kind"], m["metadata"]["name"]) == (kind, name))


def test_the_promised_parts_are_there() -> None:
    """Teacher, gateway, Redis, night, policies."""
    kinds = {m["kind"] for m in MANIFESTS}

    assert {"RayService", "Deployment", "StatefulSet", "CronJob", "NetworkPolicy"} <= kinds


@pytest.mark.parametrize(("name", "pod"), PODS, ids=[name for name, _ in PODS])
def test_a_pod_passes_the_restricted_pod_security_standard(name: str, pod: dict[str, Any]) -> None:
    """The namespace enforces it: a pod that does not is never started."""
    assert pod["securityContext"]["runAsNonRoot"] is True, name
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_the_cloud_s_configuration_is_one_the_product_reads(overlay: str) -> None:
    """A wrong key would be found by a pod that does not come up."""
    data = named("ConfigMap", "understudy-config")["data"]
    text = data["cloud.yaml"] if overlay == "base" else (GPU / "cloud.yaml").read_text()

    config = read_config(text, source=overlay, folder=Path("/"), environment=ENVIRONMENT)

    assert isinstance(config, CloudConfig)
    assert config.operator.token == ""
    assert config.serve is not None
    assert config.serve.deploy is False


def test_recipe_and_edge_are_ones_the_product_reads() -> None:
    """The night and the edges of the cluster read the same ConfigMap."""
    data = named("ConfigMap", "understudy-config")["data"]

    assert parse_config(data["recipe.yaml"], Recipe, source="recipe").task == "support-desk"
    assert parse_config(data["edge.yaml"], EdgeConfig, source="edge").state_dir


@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")  # Ray's own
def test_ray_takes_the_serve_configuration_and_it_is_the_one_of_the_cloud() -> None:
    """Serve accepts misspelt keys in silence, and two files that differ serve two teachers."""
    serve = yaml.safe_load(named("RayService", "understudy-teacher")["spec"]["serveConfigV2"])
    cloud = yaml.safe_load(named("ConfigMap", "understudy-config")["data"]["cloud.yaml"])
    arguments = serve["applications"][0]["args"]

    check_serve_config(serve)
    assert build_config(arguments["teacher"], TeacherSpec, source="rendered") == build_config(
        cloud["teacher"], TeacherSpec, source="cloud"
    )
    assert build_config(arguments["serve"], ServeOptions, source="rendered") == build_config(
        cloud["serve"], ServeOptions, source="cloud"
    )


def test_a_ray_service_has_only_fields_that_kuberay_knows() -> None:
    """What it does not know it drops in silence, or refuses in the cluster."""
    spec = named("RayService", "understudy-teacher")["spec"]

    assert unknown_fields("spec", spec) == set()
    assert unknown_fields("spec", {"rayClusterConfig": {"headGroupSpec": {"pod": 1}}}) == {
        "headGroupSpec.pod"
    }


def test_the_clock_that_puts_the_teacher_to_sleep_patches_a_field_that_exists() -> None:
    """A patch of an unknown field is taken, dropped, and the bill goes on."""
    template = (DEPLOY / "helm" / "understudy" / "templates" / "teacher.yaml").read_text()
    (patch,) = re.findall(r"--patch, '(.*)'\]", template)

    patched = json.loads(re.sub(r"{{.*?}}", "true", patch))

    assert set(patched) == {"spec"}
    assert patched["spec"].keys() <= KUBERAY["spec"]


def test_containers_run_commands_that_people_can_type() -> None:
    """Nothing here is a second way to start the product."""
    seen = 0
    for _, pod in PODS:
        for container in pod["containers"]:
            words = " ".join([*container.get("command", []), *container.get("args", [])])
            if "understudy " in words:
                check(words.rpartition("understudy ")[2].split())
                seen += 1

    assert seen >= 2


def test_the_publisher_s_keys_are_with_the_night_and_nowhere_else() -> None:
    """A stolen gateway must not be able to sign a student."""
    holders = {
        name
        for name, pod in PODS
        if any("keys" in v.get("secret", {}).get("secretName", "") for v in pod.get("volumes", []))
    }

    assert holders == {"CronJob/understudy-night"}


def test_whatever_is_not_allowed_is_denied() -> None:
    """Every pod of ours is under a policy that allows nothing but names."""
    nothing = named("NetworkPolicy", "understudy-nothing")["spec"]

    assert set(nothing["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in nothing
    allowed = [port["port"] for rule in nothing["egress"] for port in rule["ports"]]
    assert set(allowed) == {53}


def test_the_console_is_never_behind_a_load_balancer() -> None:
    """It is plain HTTP for the inside."""
    assert named("Service", "understudy-operator")["spec"]["type"] == "ClusterIP"
    ports = [p["port"] for p in named("Service", "understudy-gateway")["spec"]["ports"]]
    assert 7480 not in ports
