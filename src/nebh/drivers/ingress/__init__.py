"""The ingress proxy: the Protocol, HAProxy, a fake that can fail."""
