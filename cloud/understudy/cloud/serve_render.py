"""From our YAML to Serve's: every key checked, because Serve accepts misspelt ones in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from understudy.cloud.serve_options import ServeOptions
from understudy.cloud.teacher.spec import TeacherSpec, spec_to_plain
from understudy.types.config import nearest_key
from understudy.types.errors import ConfigError

IMPORT_PATH = "understudy.cloud.serve_app:build"
DEPLOYMENT = "Teacher"


def deployment_options(spec: TeacherSpec, options: ServeOptions) -> dict[str, Any]:
    """Keyword arguments of `serve.deployment`; the same words as in a Serve configuration."""
    scale = options.scale
    chosen: dict[str, Any] = {
        "name": DEPLOYMENT,
        "max_ongoing_requests": options.max_ongoing_calls,
        "max_queued_requests": options.max_queued_calls,
        "health_check_period_s": options.health_period_s,
        "health_check_timeout_s": options.health_timeout_s,
        "graceful_shutdown_timeout_s": options.drain_s,
        "graceful_shutdown_wait_loop_s": min(0.5, options.drain_s),
        "ray_actor_options": {
            "num_cpus": options.replica_cpus,
            "num_gpus": options.replica_gpus,
            "runtime_env": {"env_vars": replica_environment(spec, options)},
        },
    }
    if scale.max_replicas == scale.min_replicas:
        return chosen | {"num_replicas": scale.min_replicas}
    return chosen | {
        "autoscaling_config": {
            "min_replicas": scale.min_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing_calls,
            "upscale_delay_s": scale.upscale_delay_s,
            "downscale_delay_s": scale.downscale_delay_s,
        }
    }


def replica_environment(spec: TeacherSpec, options: ServeOptions) -> dict[str, str]:
    """Variables of a replica's process; the operator's own win."""
    chosen: dict[str, str] = {}
    if spec.threads:
        # Ray sets it from num_cpus when nobody else does.
        chosen["OMP_NUM_THREADS"] = str(spec.threads)
    return chosen | dict(options.environment)


def render(spec: TeacherSpec, options: ServeOptions) -> dict[str, Any]:
    """The configuration that `serve deploy` or a RayService takes.

    Raises:
        ConfigError: If the installed Ray does not know one of the keys or refuses a value.
    """
    serve = msgspec.json.decode(msgspec.json.encode(options))
    config = {
        "proxy_location": "Disabled",
        "applications": [
            {
                "name": options.app,
                "import_path": IMPORT_PATH,
                "route_prefix": None,
                "args": {"teacher": spec_to_plain(spec), "serve": serve},
                "deployments": [deployment_options(spec, options)],
            }
        ],
    }
    check_serve_config(config)
    return config


def check_serve_config(config: Mapping[str, Any]) -> None:
    """Passes if the installed Ray knows every key and takes every value.

    Raises:
        ConfigError: Names the key, and the one spelled most alike.
    """
    from pydantic import ValidationError
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import (
        DeploymentSchema,
        RayActorOptionsSchema,
        ServeApplicationSchema,
        ServeDeploySchema,
    )

    _check_keys(config, ServeDeploySchema.model_fields, "")
    for application in config.get("applications", []):
        name = f"applications.{application.get('name')}."
        _check_keys(application, ServeApplicationSchema.model_fields, name)
        for deployment in application.get("deployments", []):
            inner = f"{name}deployments.{deployment.get('name')}."
            _check_keys(deployment, DeploymentSchema.model_fields, inner)
            actor = deployment.get("ray_actor_options") or {}
            _check_keys(actor, RayActorOptionsSchema.model_fields, f"{inner}ray_actor_options.")
            scaling = deployment.get("autoscaling_config") or {}
            _check_keys(scaling, AutoscalingConfig.model_fields, f"{inner}autoscaling_config.")
    try:
        ServeDeploySchema.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"Serve's configuration: '{where}': {first['msg']}") from error


def _check_keys(given: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    names = list(known)
    for key in given:
        if key not in names:
            raise ConfigError(
                f"Serve's configuration: unknown key '{path}{key}'.{nearest_key(key, names)}"
            )
