"""`make bench`: how fast and how small, measured by the rules of docs/performance.md.

    make bench                      everything, as root; summaries and raw rows in build/bench/
    make bench ARGS="--quick"       few rounds: shows that it works, its figures mean little
    make bench ARGS="--only memory"

Every figure is computed from raw rows that are kept beside it; docs/performance.md is written from the rows in
bench/results/.
"""
