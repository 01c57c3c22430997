"""ONNX Runtime, imported without its telemetry.

Since 1.29 its Linux builds start an uploader thread at import that reports to the maker. A product
that embeds us has not agreed to that, and a forked worker hangs or aborts at exit on joining a
thread that exists in its parent only. The switch is an environment variable that is read at import,
so it is set for that moment and put back.
"""

from __future__ import annotations

import os

_SWITCH = "ORT_DISABLE_TELEMETRY"
_before = os.environ.get(_SWITCH)
os.environ[_SWITCH] = "1"
try:
    import onnxruntime
finally:
    if _before is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _before
# For a host that had imported it before us, with the thread running: at least no events.
onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime"]
