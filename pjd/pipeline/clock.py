"""When will a reproduction be done, as far as one can tell?"""

import time
from datetime import datetime

import numpy as np

STEADY = 60.0
"""Seconds for which the recorded times are believed before this machine's own outweigh them."""


class Clock:
    """When all is done, as far as one can tell.

    Args:
        share: by stage, how many run at once where it does.
        times: seconds of stages elsewhere, by name; a stage that is not there takes as long as
            others of its kind.
    """

    def __init__(self, share: dict[str, int], times: dict[str, float]) -> None:
        """Start."""
        self.share, self.times = share, times
        self.expected = 0.0
        self.spent = 0.0

    def of(self, stage: str) -> float:
        """Seconds that ``stage`` is expected to take, its share of the cores counted."""
        if stage not in self.times:
            kind = stage.partition("@")[0]
            alike = [v for k, v in self.times.items() if k.partition("@")[0] == kind]
            return float(np.mean(alike or list(self.times.values()) or [0.0])) / self.share[stage]
        return self.times[stage] / self.share[stage]

    def ran(self, stage: str, seconds: float) -> None:
        """Note that ``stage`` took ``seconds``."""
        if stage in self.share:
            self.expected += self.of(stage)
            self.spent += seconds / self.share[stage]

    def until(self, stages: list[str]) -> str:
        """The time of day when ``stages`` will be done, if they begin now."""
        factor = (self.spent + STEADY) / (self.expected + STEADY)
        seconds = factor * sum(self.of(stage) for stage in stages)
        return f"{datetime.fromtimestamp(time.time() + seconds):%H:%M}"
