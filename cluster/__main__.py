"""``python -m cluster`` is the ``metaray`` command."""

from cluster.own_packages import put_first

put_first()  # before anything else is imported: Python has put the working directory first on the path

from cluster.commands.cli import main  # noqa: E402

main()
