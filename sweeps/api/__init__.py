"""The public Python API: plan, run and load sweeps, and judge training histories."""

from sweeps.api.judging import judge, judge_all
from sweeps.api.running import SweepEvent, plan, run
from sweeps.api.sweep import Sweep, load

__all__ = ["Sweep", "SweepEvent", "judge", "judge_all", "load", "plan", "run"]
