"""Checks of what a family's inputs and class numbers hold, with words for what is wrong."""

import torch


def require_numbers(inputs: torch.Tensor, vocabulary: int, where: str) -> None:
    """Checks that inputs are of the kind that a family's spec declares.

    Args:
        inputs: of any shape.
        vocabulary: see :class:`tasks.family.FamilySpec`.
        where: which inputs they are; the message begins with it.

    Raises:
        ValueError: if they are whole numbers where real ones are declared, or the reverse, or symbols out of range.
    """
    if not vocabulary:
        if not inputs.is_floating_point():
            raise ValueError(
                f"{where}: expected real numbers, received {inputs.dtype}; for symbols such as tokens give the "
                "family's spec their number, vocabulary=…"
            )
    elif inputs.dtype != torch.int64:
        raise ValueError(f"{where}: expected symbols of type torch.int64 (spec.vocabulary), received {inputs.dtype}")
    elif inputs.numel() and not (int(inputs.min()) >= 0 and int(inputs.max()) < vocabulary):
        raise ValueError(
            f"{where}: expected symbols from 0 to {vocabulary - 1} (spec.vocabulary is {vocabulary}), received some "
            f"from {int(inputs.min())} to {int(inputs.max())}"
        )


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
