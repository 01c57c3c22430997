"""The night: stages from the log to a gated, signed student."""
