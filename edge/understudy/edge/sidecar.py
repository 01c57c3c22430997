"""The sidecar for products that are not written in Python."""
