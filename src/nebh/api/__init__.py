"""Floor 6: REST: decode, one use case, encode."""
