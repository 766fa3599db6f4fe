"""The demo: one machine, a real application, a live load, six acts; what happened is in build/demo.json.

    make demo                       as root; DEMO_KEEP=1 leaves the cloud running
    make demo ARGS=--remove         take a cloud away that was left running

Every act counts every request of a load generator that never tries again. An act is `ok` when none failed and what it
claims was measured; the demo ends with status 0 when all six are.
"""
