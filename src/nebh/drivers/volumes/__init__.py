"""Volumes: data that outlives instances, its snapshots, and how they come back."""
