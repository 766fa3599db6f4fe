"""Floor 1: model <-> bytes. One codec for API, state, manifests and everything that is signed."""
