"""The agent (floor 5): the node's network half. It fetches, probes and relays, and is trusted with nothing."""
