"""``python -m cluster`` is the ``metaray`` command."""

from cluster.cli import main

main()
