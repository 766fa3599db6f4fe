"""The agent (floor 5): carries bytes between controller and executor; holds no power."""
