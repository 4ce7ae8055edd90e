"""Speed of meta-gradients: against what a user would pick instead, and against what the machine can do.

Imports torch, numpy, the standard library and :mod:`meta` only, and the peers where they are installed, so it runs on
any machine with torch: ``python -m benchmarks SUITE``.
"""
