"""Checks of class numbers, with words for what is wrong."""

import torch


def require_classes(targets: torch.Tensor, classes: int, where: str) -> None:
    """Checks class numbers.

    Args:
        targets: class numbers of any shape.
        classes: number N of classes.
        where: which targets they are; the message begins with it.

    Raises:
        ValueError: if they are of another type than int64, or out of range.
    """
    if targets.dtype != torch.int64:
        raise ValueError(f"{where}: expected class numbers of type torch.int64, received {targets.dtype}")
    if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < classes):
        raise ValueError(
            f"{where}: expected class numbers from 0 to {classes - 1} (spec.outputs is {classes}), received some from "
            f"{int(targets.min())} to {int(targets.max())}"
        )
