"""Which items are withdrawn, as far as this replica knows. Changed and read in one loop."""

import logging

from experiments.availability import AvailabilityCursor, Changes

_logger = logging.getLogger(__name__)


class Stock:
    """Nothing is withdrawn until somebody says so."""

    def __init__(self) -> None:
        self.withdrawn: set[str] = set()
        self.seen = AvailabilityCursor()
        self.changes = 0
        """How often something was changed here."""

    def take(self, found: Changes) -> None:
        """Follow what was read. Of a table that was restored or emptied the last word counts where it has one, and what
        was withdrawn before stays so: doubt withholds an item, and shows none that is sold out."""
        if found.anew and self.seen.number:
            kept = self.withdrawn - found.available.keys()
            _logger.warning(
                "the table of withdrawn items is another one than before: %d items that it does not know stay "
                "withdrawn until the shop says otherwise", len(kept),
            )  # fmt: skip
        for item, available in found.available.items():
            if available:
                self.withdrawn.discard(item)
            else:
                self.withdrawn.add(item)
        self.seen = found.seen
        self.changes += bool(found.available)
