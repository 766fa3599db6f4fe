"""Floor 1: the machine. The only package that may import subprocess, socket or ctypes."""
