"""Floor 2: the controller's tables."""
