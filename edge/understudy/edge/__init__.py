"""What a product embeds: `EdgeClient` and `AsyncEdgeClient`.

    with EdgeClient.open("edge.yaml") as client:
        answer = client.predict("the machine swallowed my card")

The student answers (`student`), the router decides, the teacher is asked over gRPC (`transport`)
within the call's budget, and whatever cannot be asked now waits on disk (`spool`). Importing this
package loads none of numpy, onnxruntime, grpc or tuf; opening a client does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.edge.aio import AsyncEdgeClient
    from understudy.edge.client import EdgeClient
    from understudy.edge.config import EdgeConfig, Mode, load_config
    from understudy.edge.events import Event, EventKind
    from understudy.types.answer import Answer, Source
    from understudy.types.decision import Reason

__all__ = [
    "Answer",
    "AsyncEdgeClient",
    "EdgeClient",
    "EdgeConfig",
    "Event",
    "EventKind",
    "Mode",
    "Reason",
    "Source",
    "load_config",
]

_HOMES = {
    "Answer": "understudy.types.answer",
    "AsyncEdgeClient": "understudy.edge.aio",
    "EdgeClient": "understudy.edge.client",
    "EdgeConfig": "understudy.edge.config",
    "Event": "understudy.edge.events",
    "EventKind": "understudy.edge.events",
    "Mode": "understudy.edge.config",
    "Reason": "understudy.types.decision",
    "Source": "understudy.types.answer",
    "load_config": "understudy.edge.config",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Loads a name's module when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
