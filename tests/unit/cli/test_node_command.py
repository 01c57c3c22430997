"""What an invitation tells a node."""

from __future__ import annotations

import pytest

from understudy.cli.commands.node import reachable

NAMES = ("localhost", "127.0.0.1", "cloud.example", "10.0.0.7")


@pytest.mark.parametrize(
    ("address", "host", "told"),
    [
        pytest.param("cloud.example:7443", "", "cloud.example:7443", id="a name as it is"),
        pytest.param("127.0.0.1:7443", "", "127.0.0.1:7443", id="one machine"),
        pytest.param("0.0.0.0:7443", "", "cloud.example:7443", id="the name that leads here"),
        pytest.param("[::]:7443", "", "cloud.example:7443", id="all of IPv6"),
        pytest.param("0.0.0.0:7443", "localhost", "localhost:7443", id="the operator's word"),
    ],
)
def test_an_invitation_names_an_address_that_a_node_can_reach(
    address: str, host: str, told: str
) -> None:
    """Everywhere is where a gateway listens, and nowhere a node can go."""
    assert told == reachable(address, NAMES, host)


def test_without_a_name_that_leads_here_the_node_is_on_this_machine() -> None:
    """A certificate for localhost alone is good for nobody else."""
    assert reachable("0.0.0.0:7443", ("localhost",)) == "localhost:7443"
