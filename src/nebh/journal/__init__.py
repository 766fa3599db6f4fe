"""Floor 2: the executor's own database: what it accepted, what it is doing, what it has said."""
