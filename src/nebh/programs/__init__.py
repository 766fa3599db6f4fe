"""Entry points (roof): a few lines each."""
