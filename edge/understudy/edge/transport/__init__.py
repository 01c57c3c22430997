"""The edge's one gRPC face: nouns in, nouns out, foreign errors mapped once.

`CloudLink` blocks, `AsyncCloudLink` awaits; both make the same calls of `calls`. Nothing connects
before the first call.
"""

from understudy.edge.ports import Enrollment, Renewal
from understudy.edge.tls import LinkCredentials, is_loopback
from understudy.edge.transport.aio import AsyncCloudLink
from understudy.edge.transport.link import CloudLink

__all__ = [
    "AsyncCloudLink",
    "CloudLink",
    "Enrollment",
    "LinkCredentials",
    "Renewal",
    "is_loopback",
]
