"""Floor 3: decisions. Values in, a value with its reason out; time is an argument."""
