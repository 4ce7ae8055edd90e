"""MLflow: one run per training or search, fed from files in its folder by a thread that the training never waits for.

``metrics.jsonl`` and ``system.jsonl`` are the spool. What has been sent is noted in ``tracking.json``; while the server
is down the thread tries again, and what is unsent in the end stays in the files until it is replayed.
"""

from cluster.tracking.sender import flatten
from cluster.tracking.server import tracking_uri
from cluster.tracking.spool import Tracked, original_of, require_own_checkpoints
from cluster.tracking.tracker import Tracker

__all__ = ["Tracked", "Tracker", "flatten", "original_of", "require_own_checkpoints", "tracking_uri"]
