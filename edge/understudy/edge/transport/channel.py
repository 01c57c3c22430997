"""How a channel to the cloud is made: credentials, bounds, retries."""

from __future__ import annotations

import json
from typing import Any

import grpc

from understudy.edge.tls import LinkCredentials, is_loopback
from understudy.types.errors import ConfigError

MAX_MESSAGE_BYTES = 4 << 20
__all__ = ["LinkCredentials", "channel_credentials", "channel_options"]

_SERVICE = "understudy.wire.v1."

# Calls that only read, or only tell. Not Predict: here the runtime would sit out a push-back inside
# the product's budget; the client repeats that call itself.
_RETRIED = (
    {"service": f"{_SERVICE}FleetService"},
    {"service": f"{_SERVICE}ArtifactService", "method": "GetMetadata"},
)
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": list(_RETRIED),
            "retryPolicy": {
                "maxAttempts": 2,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}


def channel_options(credentials: LinkCredentials | None) -> list[tuple[str, Any]]:
    """The options of every channel; times are milliseconds."""
    options: list[tuple[str, Any]] = [
        ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Servers answer more frequent pings with GOAWAY too_many_pings.
        ("grpc.keepalive_time_ms", 300_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 30_000),
        # Also how long one attempt to connect may take: a black hole must not hold it for 20 s.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        # A channel rebuilt with new credentials must not share the old connection.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.primary_user_agent", "understudy-edge"),
    ]
    if credentials is not None and credentials.server_name:
        options.append(("grpc.ssl_target_name_override", credentials.server_name))
    return options


def channel_credentials(
    address: str, credentials: LinkCredentials | None
) -> grpc.ChannelCredentials | None:
    """TLS for an address; None, plaintext, on this very machine only.

    Raises:
        ConfigError: If there is nothing to verify a distant server with.
    """
    if credentials is None:
        if not is_loopback(address):
            raise ConfigError(
                f"gateway.address {address} is not on this machine, so gateway.tls must be set"
            )
        return None
    return grpc.ssl_channel_credentials(
        credentials.ca_certificate, credentials.key or None, credentials.certificate or None
    )
