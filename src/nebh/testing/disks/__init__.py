"""Disks that tell: every write and flush of a file system is recorded, and can be made to fail."""
