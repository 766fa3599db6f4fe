"""The controller (floor 5): desired state, placements, signed assignments."""
