"""Families of environments for meta reinforcement learning.

Importing the package registers its own environments with gymnasium; MuJoCo is imported where a robot is made.

>>> import gymnasium
>>> "metaray/AntVelocity-v0" in gymnasium.registry
True
"""

import gymnasium


def _register() -> None:
    module = "tasks.environments.mujoco"
    for single, many in (
        ("HalfCheetahDirection", "HalfCheetahDirections"),
        ("HalfCheetahVelocity", "HalfCheetahVelocities"),
        ("AntDirection", "AntDirections"),
        ("AntVelocity", "AntVelocities"),
    ):
        gymnasium.register(
            id=f"metaray/{single}-v0",
            entry_point=f"{module}:{single}",
            vector_entry_point=f"{module}:{many}",
            max_episode_steps=1000,
        )
    for name in ("FrozenLakeMaps", "Courier", "CartPolePhysics"):
        gymnasium.register(id=f"metaray/{name}-v0", entry_point=f"tasks.environments.small:{name}")
    gymnasium.register(id="metaray/TaskSettable-v0", entry_point="tasks.environments.settable:TaskSettable")


_register()
