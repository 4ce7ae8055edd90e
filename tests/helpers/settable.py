"""An environment with ``sample_tasks`` and ``set_task`` and the interface of gym before gymnasium."""

from typing import Any

import numpy as np
from gymnasium import spaces


class Line:
    """A point on a line that is drawn to its task's goal, with noise from numpy's global generator."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-1.0, 1.0, (1,))

    def sample_tasks(self, n_tasks: int) -> list[float]:
        """Returns goals."""
        return np.random.uniform(-1, 1, n_tasks).tolist()  # type: ignore[no-any-return]  # noqa: NPY002

    def set_task(self, task: float) -> None:
        """Sets the goal."""
        self.goal = task

    def reset(self) -> Any:
        """Returns a first place."""
        self.place = np.random.normal(size=1)  # noqa: NPY002
        return self.place.copy()

    def step(self, action: Any) -> Any:
        """Takes a step with noise."""
        self.place = self.place + action + np.random.normal(0, 0.1, 1)  # noqa: NPY002
        return self.place.copy(), -abs(float(self.place[0]) - self.goal), False, {}
