"""Rendering files from templates, in a child that can do nothing else."""
