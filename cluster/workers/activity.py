"""The present work of each worker of a pool, in words."""

from collections.abc import Iterable

from cluster.workers.member import Member
from cluster.workers.nodes import label
from cluster.workers.schedule import Schedule


def activities(members: Iterable[Member], schedule: Schedule) -> list[str]:
    """A line for each worker: its node, and the shard that it has held longest.

    Args:
        members: the workers.
        schedule: what they were given.
    """
    return [_activity(member, schedule) for member in sorted(members, key=lambda member: member.number)]


def _activity(member: Member, schedule: Schedule) -> str:
    if member.link is None:
        return "coming back by another relay" if member.returning else "starting"
    oldest = schedule.oldest(member.number)
    where = label(member.node, member.host)
    if oldest is None:
        return f"{where}: idle"
    job, seconds = oldest
    return f"{where}: shard {job.request.shard} of step {job.request.step}, for {seconds:.1f} s"
