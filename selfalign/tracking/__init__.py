"""Experiment tracking: metrics, tables and artifacts of one run in, one W&B run out (offline by default), or nothing.

A run's own files are the truth; W&B is a mirror of them. Nothing here changes a result.
"""

from selfalign.tracking.offline import Synced, is_logged, sync
from selfalign.tracking.scrub import REMOVED, scrub, scrub_arguments
from selfalign.tracking.settings import Mode, TrackingSettings, problems
from selfalign.tracking.trackers import NoTracker, Tracker, WandbTracker, open_tracker

__all__ = [
    "REMOVED",
    "Mode",
    "NoTracker",
    "Synced",
    "Tracker",
    "TrackingSettings",
    "WandbTracker",
    "is_logged",
    "open_tracker",
    "problems",
    "scrub",
    "scrub_arguments",
    "sync",
]
