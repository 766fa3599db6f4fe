"""Random kills of a whole cloud under load, counted and judged. `make crash KILLS=1000`, or `run_campaign`."""
