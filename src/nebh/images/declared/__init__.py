"""From a declaration to a tree: lock, download, unpack without running anything, build in a sandbox, reduce."""
