"""Stop texts, exact across token boundaries: matched on text, holding back what could yet become one."""

from collections.abc import Sequence


def longest_beginning(text: str, of: Sequence[str]) -> int:
    """Length of the longest suffix of `text` that is a proper beginning of one of `of`; 0 if none is."""
    longest = 0
    for wanted in of:
        for length in range(min(len(wanted) - 1, len(text)), longest, -1):
            if text.endswith(wanted[:length]):
                longest = length
                break
    return longest


class StopMatcher:
    """Feeds text through; what comes out never holds a stop text or the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.withheld = 0

    def feed(self, text: str) -> str:
        """What may be shown now; `withheld` counts the characters behind it.

        The match that ends first wins; of those that end together, the longest.
        """
        if self.stopped:
            return ""
        if not self._stops:
            return text
        seen = self._held + text
        matches = [(at + len(stop), at) for stop in self._stops if (at := seen.find(stop)) >= 0]
        if matches:
            _, begin = min(matches)
            self.stopped, self._held, self.withheld = True, "", len(seen) - begin
            return seen[:begin]
        keep = longest_beginning(seen, self._stops)
        self._held, self.withheld = seen[len(seen) - keep :], keep
        return seen[: len(seen) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop."""
        held, self._held, self.withheld = self._held, "", 0
        return held
