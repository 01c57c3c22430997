"""A running demo world with the data it was prepared for."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.cli.demo_data import DemoData
from understudy.cli.demo_setup import Places
from understudy.cli.demo_world import DemoWorld
from understudy.cli.rows import Row

INTENTS = ("order_status", "refund_request", "reset_password", "slow_wifi", "talk_to_human")
LATE = "product_recall"


@dataclass(frozen=True)
class Loop:
    """A running world with the data it was prepared for."""

    world: DemoWorld
    data: DemoData
    places: Places
    foreign: tuple[Row, ...]
