"""Backups: copies of volumes elsewhere, encrypted, and proof of which is which."""
