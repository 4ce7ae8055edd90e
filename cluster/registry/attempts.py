"""Count of comparisons with a champion, in the registry, so that each uses test tasks that no other has used."""

import secrets
import time
from typing import Any, NamedTuple

from cluster.errors import MetarayError

FIRST_TASK = 1_000_000  # test tasks of comparisons begin here: evaluations take the first ones
PREFIX = "metaray.comparison."
TRIES = 20
PAUSE = 200  # milliseconds at most between tries


class Attempt(NamedTuple):
    """One comparison of a registered model with its champion.

    Attributes:
        number: number of the comparison among those of the model, from 1 on.
        first: number of its first test task.
    """

    number: int
    first: int


def reserve(client: Any, name: str, tasks: int) -> Attempt:
    """Count an attempt on ``tasks`` test tasks that no other attempt uses, on any machine.

    An attempt is a tag of the registered model, ``metaray.comparison.NUMBER.TOKEN``, whose value is its number of
    tasks. The registry has no locks: who finds that somebody else took the same number at the same time gives it back
    and tries again. Of two writers at least the second sees both tags, so that no two keep one number.

    Args:
        client: MLflow's, whose registry holds the model.
        name: of the registered model.
        tasks: how many.

    Raises:
        MetarayError: if others keep taking the same numbers.
    """
    for _ in range(TRIES):
        number = 1 + max((taken for taken, *_ in _attempts(client, name)), default=0)
        token = secrets.token_hex(8)
        key = f"{PREFIX}{number:06d}.{token}"
        client.set_registered_model_tag(name, key, str(tasks))
        known = _attempts(client, name)
        if [other for taken, other, _ in known if taken == number] == [token]:
            return Attempt(number, FIRST_TASK + sum(count for taken, _, count in known if taken < number))
        client.delete_registered_model_tag(name, key)
        time.sleep(secrets.randbelow(PAUSE) / 1000)  # two that met take turns
    raise MetarayError(
        f"expected to count a comparison of model '{name}', {TRIES} times somebody else counted one at the same time; "
        "nothing was registered, run the command again"
    )


def _attempts(client: Any, name: str) -> list[tuple[int, str, int]]:
    """Number, token and tasks of the attempts so far."""
    tags = client.get_registered_model(name).tags
    attempts = []
    for key, value in tags.items():
        if key.startswith(PREFIX):
            number, _, token = key.removeprefix(PREFIX).partition(".")
            attempts.append((int(number), token, int(value)))
    return attempts
