"""A family of images made up as they are asked for: what measuring through Ray needs where no data set is at hand."""

from dataclasses import dataclass

import numpy as np
import torch

from meta.episode import Episode, Examples
from tasks.family import FamilySpec, TaskKey


@dataclass(frozen=True, kw_only=True)
class SyntheticImages:
    """Noise around one pattern a class, each task with classes of its own.

    Attributes:
        channels: channels of an image.
        size: height and width.
        way: classes of a task.
        shot: support images per class.
        query: query images per class.

    >>> family = SyntheticImages(size=8, way=3, query=2)
    >>> episode = family.draw(TaskKey(0, "train", 5))
    >>> tuple(episode.support.inputs.shape), episode.query.targets.tolist()
    ((3, 1, 8, 8), [0, 0, 1, 1, 2, 2])
    """

    channels: int = 1
    size: int = 28
    way: int = 5
    shot: int = 1
    query: int = 1

    def __post_init__(self) -> None:
        """Check the sizes."""
        if min(self.channels, self.size, self.way, self.shot, self.query) < 1:
            raise ValueError("expected channels, size, way, shot and query of at least 1")

    @property
    def spec(self) -> FamilySpec:
        """Images and class numbers."""
        return FamilySpec(
            input_shape=(self.channels, self.size, self.size), outputs=self.way, objective="cross_entropy"
        )

    def draw(self, key: TaskKey) -> Episode:
        """One task, a function of ``key``."""
        image = (self.channels, self.size, self.size)
        patterns = key.rng("class").random((self.way, 1, *image), dtype=np.float32)

        def examples(purpose: str, each: int) -> Examples:
            noise = key.rng(purpose).random((self.way, each, *image), dtype=np.float32)
            images = torch.from_numpy(patterns + noise - 1).flatten(0, 1)
            return Examples(images, torch.arange(self.way).repeat_interleave(each))

        return Episode(examples("support", self.shot), examples("query", self.query), torch.zeros(0))
