"""Nebh: a self-hosted cloud whose updates are transactions and whose code only operators' keys can place."""

__version__ = "0.1.0"
