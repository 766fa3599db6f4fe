"""Floor 0: the nouns. Frozen dataclasses and pure functions on the standard library only."""
