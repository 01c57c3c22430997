"""Serve takes misspelt keys in silence; what we render is checked key by key."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from understudy.cloud.serve_app import build
from understudy.cloud.serve_options import ScaleOptions, ServeOptions
from understudy.cloud.serve_render import check_serve_config, deployment_options, render
from understudy.cloud.teacher.spec import Engine, TeacherSpec
from understudy.types.errors import ConfigError, InvalidValueError

pytest.importorskip("ray.serve", reason="install understudy[cloud]")

SPEC = TeacherSpec(engine=Engine.VLLM, model="/models/teacher", labels=("a", "b"), threads=2)
SCALED = ServeOptions(scale=ScaleOptions(min_replicas=1, max_replicas=4))


def deployment(config: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = config["applications"][0]["deployments"][0]
    return chosen


def test_what_is_rendered_is_plain_yaml_that_serve_accepts() -> None:
    config = render(SPEC, SCALED)

    read = yaml.safe_load(yaml.safe_dump(config))
    assert config == read
    check_serve_config(read)


def test_every_option_reaches_its_key() -> None:
    chosen = deployment(render(SPEC, SCALED))

    assert SCALED.max_queued_calls == chosen["max_queued_requests"]
    assert SCALED.scale.max_replicas == chosen["autoscaling_config"]["max_replicas"]
    assert SCALED.drain_s == chosen["graceful_shutdown_timeout_s"]
    assert chosen["ray_actor_options"]["runtime_env"] == {"env_vars": {"OMP_NUM_THREADS": "2"}}


def test_a_fixed_number_of_replicas_is_not_scaled() -> None:
    chosen = deployment_options(SPEC, ServeOptions())

    assert chosen["num_replicas"] == 1
    assert "autoscaling_config" not in chosen


def test_the_operators_own_variables_win() -> None:
    options = ServeOptions(environment={"OMP_NUM_THREADS": "5"})

    chosen = deployment_options(SPEC, options)

    assert chosen["ray_actor_options"]["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((), r"'proxy_locatoin'\. Did you mean 'proxy_location'"),
        (
            ("applications", 0),
            r"'applications\.teacher\.rout_prefix'\. Did you mean 'route_prefix'",
        ),
        (
            ("applications", 0, "deployments", 0),
            r"max_ongoing_reqests'\. Did you mean 'max_ongoing_requests'",
        ),
        (
            ("applications", 0, "deployments", 0, "autoscaling_config"),
            r"max_replcas'\. Did you mean 'max_replicas'",
        ),
        (
            ("applications", 0, "deployments", 0, "ray_actor_options"),
            r"num_cpu'\. Did you mean 'num_cpus'",
        ),
    ],
    ids=["top", "application", "deployment", "autoscaling", "actor"],
)
def test_a_misspelt_key_is_refused_and_the_right_one_named(
    path: tuple[Any, ...], message: str
) -> None:
    config: Any = copy.deepcopy(render(SPEC, SCALED))
    place = config
    for step in path:
        place = place[step]
    wrong = message.partition("'\\.")[0].rpartition(".")[2].strip("'")
    place[wrong] = 1

    with pytest.raises(ConfigError, match=message):
        check_serve_config(config)


def test_a_value_that_serve_refuses_is_named() -> None:
    config = render(SPEC, SCALED)
    deployment(config)["max_ongoing_requests"] = "many"

    with pytest.raises(ConfigError, match="max_ongoing_requests"):
        check_serve_config(config)


def test_the_application_is_built_from_what_was_rendered() -> None:
    """Serve imports `build` and hands it `args`: both ends must agree."""
    arguments = render(SPEC, SCALED)["applications"][0]["args"]

    assert build(arguments) is not None
    arguments["teacher"]["max_bach"] = 3
    with pytest.raises(ConfigError, match="Did you mean 'max_batch'"):
        build(arguments)


def test_scaling_to_zero_is_refused() -> None:
    """No edge deadline survives a cold start, and this Ray does not honour it reliably."""
    with pytest.raises(InvalidValueError, match="min_replicas"):
        ScaleOptions(min_replicas=0)
