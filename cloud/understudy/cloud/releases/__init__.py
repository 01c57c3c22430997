"""Signed releases: the repository that the publisher writes and the gateway serves."""
