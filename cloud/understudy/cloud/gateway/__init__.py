"""Our own gRPC gateway in front of the teacher, the log and the releases."""
