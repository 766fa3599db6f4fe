"""Readers of what people have: a directory, a tar, an OCI layout, a docker-archive, a registry."""
