"""Names: the Protocol, dnsmasq, a fake that can fail."""
