"""Floor 1: a service spec as text -> model, with every problem of the text at once."""
