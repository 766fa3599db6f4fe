"""Hands on keys: roles, publications, the trust store, statements. Importing it imports nothing heavy."""
