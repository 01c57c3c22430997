"""What a product embeds: `EdgeClient` and `AsyncEdgeClient`.

Importing this package loads none of numpy, onnxruntime, grpc or tuf; opening a client does.
"""
