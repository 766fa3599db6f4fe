"""Floor 2: hands for the machine. Each kind has `base.py` (Protocol), the real one, and `fake.py`."""
