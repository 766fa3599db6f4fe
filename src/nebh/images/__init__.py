"""Images: tree manifests, their objects, and how any source becomes one (architecture 4)."""
