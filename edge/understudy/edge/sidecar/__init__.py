"""The sidecar for products that are not written in Python: the same answers over HTTP and gRPC.

    understudy edge serve -c edge.yaml

`http` speaks JSON with an OpenAPI description, `rpc` speaks `understudy.wire.v1.EdgeService`; both
stand before one `AsyncEdgeClient`. Needs the extra `sidecar` for HTTP.
"""

from understudy.edge.sidecar.serve import Sidecar, serve

__all__ = ["Sidecar", "serve"]
