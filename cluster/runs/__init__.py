"""A run on the disk: its folder, checkpoints, storage and metrics."""
