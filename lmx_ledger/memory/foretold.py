"""How well peaks of memory were foretold, as `/lmx/memory` tells it."""

from lmx_ledger.engine.protocol import Step


class Foretold:
    """How well the workers foretold their peaks."""

    def __init__(self) -> None:
        self.steps = self.under = self.near = 0
        self.worst_under = self.predicted_peak = self.measured_peak = 0

    def add(self, step: Step) -> None:
        """One round of a worker's loop."""
        if not step.predicted_bytes:
            return
        missing = step.peak_bytes - step.predicted_bytes
        self.steps += 1
        self.under += missing > 0
        self.near += abs(missing) <= step.peak_bytes / 10
        self.worst_under = max(self.worst_under, missing)
        self.predicted_peak = max(self.predicted_peak, step.predicted_bytes)
        self.measured_peak = max(self.measured_peak, step.peak_bytes)

    def public(self) -> dict[str, int]:
        """A part of `/lmx/memory`."""
        return {
            "steps": self.steps,
            "under": self.under,
            "within_a_tenth": self.near,
            "worst_under_bytes": self.worst_under,
            "predicted_peak_bytes": self.predicted_peak,
            "measured_peak_bytes": self.measured_peak,
        }
