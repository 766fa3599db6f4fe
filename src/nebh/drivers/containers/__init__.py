"""Containers: the Protocol, crun under conmon, a fake that can fail."""
