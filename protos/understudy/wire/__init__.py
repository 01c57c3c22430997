"""Generated code, by version. Import the version: `understudy.wire.v1`."""
