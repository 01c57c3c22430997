"""How the teacher is served by Ray: what an operator may choose, in the words of our YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from understudy.cloud.ray_start import RayOptions
from understudy.types.errors import InvalidValueError

TRACES_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
"""How a replica, which has an environment and no configuration of ours, hears where spans go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """How many replicas of the teacher run.

    Attributes:
        min_replicas: Kept running when nothing is asked.
        max_replicas: Never more; equal to `min_replicas` switches scaling off.
        target_ongoing_calls: Calls under way per replica that scaling aims at.
        upscale_delay_s: Load must last so long before a replica is added.
        downscale_delay_s: Quiet must last so long before one is taken away.
    """

    min_replicas: int = 1
    max_replicas: int = 1
    target_ongoing_calls: float = 4.0
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0

    def __post_init__(self) -> None:
        # 0 is refused on purpose: a cold teacher takes longer than any edge deadline, and Ray 2.60
        # does not honour it reliably (ray#59076).
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise InvalidValueError("min_replicas must lie between 1 and max_replicas")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The teacher's deployment.

    Attributes:
        app: Name of the Serve application.
        deploy: True to deploy it from here; False if it is deployed from a rendered file.
        scale: How many replicas.
        max_ongoing_calls: Calls one replica works on at once; each call carries a whole batch.
        max_queued_calls: Calls that may wait in one gateway; more are refused as overload.
        retry_after_s: What a refused caller is asked to wait, seconds.
        replica_cpus: Logical processors a replica claims.
        replica_gpus: Accelerators a replica claims.
        health_period_s: Seconds between health checks.
        health_timeout_s: An unanswered check fails after so long.
        drain_s: A stopping replica may finish its work for so long.
        start_timeout_s: Longest wait for the first replica, seconds.
        environment: Variables for the replicas.
        ray: The Ray this process uses.
    """

    app: str = "teacher"
    deploy: bool = True
    scale: ScaleOptions = field(default_factory=ScaleOptions)
    max_ongoing_calls: int = 16
    max_queued_calls: int = 64
    retry_after_s: float = 0.5
    replica_cpus: float = 1.0
    replica_gpus: float = 0.0
    health_period_s: float = 10.0
    health_timeout_s: float = 30.0
    drain_s: float = 30.0
    start_timeout_s: float = 600.0
    environment: Mapping[str, str] = field(default_factory=dict)
    ray: RayOptions = field(default_factory=RayOptions)

    def __post_init__(self) -> None:
        if self.max_ongoing_calls < 1 or self.max_queued_calls < 0:
            raise InvalidValueError("max_ongoing_calls must be at least 1, max_queued_calls 0")
        if min(self.health_period_s, self.health_timeout_s, self.start_timeout_s) <= 0.0:
            raise InvalidValueError("health and start times must be above 0 seconds")
