"""Programs and data for demos, benches and tests; nothing in production imports them."""
