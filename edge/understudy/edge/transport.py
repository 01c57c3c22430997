"""The edge's one gRPC face: nouns in, nouns out, foreign errors mapped once."""
