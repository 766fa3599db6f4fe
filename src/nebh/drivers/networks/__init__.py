"""Networks: the Protocol, nftables and routed veth links, a fake that can fail."""
