"""The REST doors of the controller (floor 6): decode, one use case, encode."""
