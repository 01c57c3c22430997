"""The example configurations are ones the product reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.cloud.config import load_config as load_cloud
from understudy.distill_loop.recipe import load_recipe
from understudy.edge.config import load_config as load_edge

CONFIGS = Path(__file__).resolve().parents[3] / "deploy" / "config"
CLOUDS = sorted(CONFIGS.glob("cloud*.yaml"))
RECIPES = sorted(CONFIGS.glob("recipe*.yaml"))


@pytest.mark.parametrize("path", CLOUDS, ids=lambda p: p.stem)
def test_an_example_cloud_is_read_with_nothing_set(path: Path) -> None:
    """Whoever copies it starts from a file that works."""
    config = load_cloud(path, {})

    assert config.tasks
    assert config.gateway.address.endswith(":7443")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_an_example_recipe_is_read(path: Path) -> None:
    """A night that stops at its first key is found in the morning."""
    assert load_recipe(str(path), {}).task == "support-desk"


def test_the_example_edge_is_read_and_talks_to_the_example_cloud() -> None:
    """The two files belong together."""
    edge, cloud = load_edge(CONFIGS / "edge.yaml", {}), load_cloud(CONFIGS / "cloud.yaml", {})

    assert edge.gateway.address.rpartition(":")[2] == cloud.gateway.address.rpartition(":")[2]
    assert edge.gateway.tls is not None
    assert Path(edge.gateway.tls.ca).name == "ca.pem"


def test_cloud_and_recipe_state_the_same_contract() -> None:
    """A night that certifies another contract than the one promised proves nothing."""
    cloud = load_cloud(CONFIGS / "cloud.yaml", {}).tasks["support-desk"].contract
    night = load_recipe(str(CONFIGS / "recipe.yaml"), {}).contract

    assert (cloud.max_quality_loss, cloud.confidence) == (
        night.max_quality_loss,
        night.confidence,
    )


def test_variables_of_the_environment_win_over_the_defaults() -> None:
    """The images and units set them."""
    config = load_cloud(
        CONFIGS / "cloud-redis.yaml",
        {"UNDERSTUDY_REDIS": "redis://redis:6379/0", "UNDERSTUDY_STATE": "/data"},
    )

    assert (config.log.url, config.state_dir) == ("redis://redis:6379/0", "/data")
