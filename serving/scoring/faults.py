"""What a request that cannot be answered is told."""

from typing import Any


class BadRequest(ValueError):
    """A request that cannot be answered: which field, what was found, what was expected."""

    def __init__(self, field: str, found: object, expected: str) -> None:
        shown = repr(found)
        self.field, self.expected = field, expected
        self.found = shown if len(shown) <= 80 else shown[:77] + "..."
        super().__init__(f"{field}: found {self.found}, expected {expected}")

    def answer(self) -> dict[str, Any]:
        """The answer that stands in for a recommendation."""
        return {"error": {"field": self.field, "found": self.found, "expected": self.expected}}
