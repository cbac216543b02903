"""The records of a CSV file, one by one, for files in which a quote may reach over lines; every line is accounted for.

When does a quote count as stray? A value in quotes may hold line breaks. Where the quote is not closed before a
separator or the end of a line, or closes a record of another number of values, or where more than half of the lines it
would join are records by themselves, it is stray: its own line is set aside, and the lines after it are
read on their own.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST_LINES = 1_000
"""A value in quotes reaches over no more."""


class Splitter:
    """Lines to values, for a separator and a number of columns."""

    def __init__(self, delimiter: str, width: int) -> None:
        self._delimiter, self._width = delimiter, width
        end = f"(?={re.escape(delimiter)}|$)"
        self._quoted = re.compile(rf' *"((?:[^"]|"")*)" *{end}(?!\n)')

    def records(self, lines: Iterable[str]) -> Iterator[list[str] | str]:
        """Of each record its values; of each line that is none the line itself. Blank lines are neither."""
        rest = iter(lines)
        ahead: deque[str] = deque()
        while True:
            line = ahead.popleft() if ahead else next(rest, None)
            if line is None:
                return
            if not line:
                continue
            if '"' not in line:
                values: list[str] | None = line.split(self._delimiter)
            else:
                values, joined = self._split(line), [line]
                if values is None and self._is_open(line):
                    values = self._join(joined, ahead, rest)
            yield self._fit(values) or line

    def _join(self, joined: list[str], ahead: deque[str], rest: Iterator[str]) -> list[str] | None:
        """The values of a record that goes on in the lines after; these are given back where its quote is stray."""
        taken: list[str] = []
        while len(taken) < MOST_LINES:
            line = ahead.popleft() if ahead else next(rest, None)
            if line is None:
                break
            taken.append(line)
            if '"' not in line:
                continue
            whole = "\n".join([*joined, *taken])
            if (values := self._split(whole)) is not None or not self._is_open(whole):
                alone = sum(each.count(self._delimiter) == self._width - 1 for each in [*joined, *taken])
                if self._fit(values) and 2 * alone <= 1 + len(taken):
                    return values
                break
        ahead.extendleft(reversed(taken))
        return None

    def _fit(self, values: list[str] | None) -> list[str] | None:
        if values is not None and len(values) == self._width + 1 and not values[-1]:
            values = values[:-1]  # a separator after the last value
        return values if values is not None and len(values) == self._width else None

    def _split(self, text: str) -> list[str] | None:
        """The values of a record; None where its quotes make none."""
        values, at = [], 0
        while True:
            if (quoted := self._quoted.match(text, at)) is not None:
                values.append(quoted[1].replace('""', '"'))
                at = quoted.end()
            else:
                end = text.find(self._delimiter, at)
                end = len(text) if end < 0 else end
                value = text[at:end]
                if value.lstrip(" ").startswith('"') or "\n" in value:
                    return None
                values.append(value)
                at = end
            if at == len(text):
                return values
            at += len(self._delimiter)

    def _is_open(self, text: str) -> bool:
        """Whether the record ends inside of quotes."""
        at = 0
        while True:
            start = at
            while start < len(text) and text[start] == " ":
                start += 1
            if text[start : start + 1] == '"':
                if (quoted := self._quoted.match(text, at)) is None:
                    return re.fullmatch(r'"(?:[^"]|"")*', text[start:]) is not None
                at = quoted.end()
            else:
                end = text.find(self._delimiter, at)
                at = len(text) if end < 0 else end
            if at >= len(text):
                return False
            at += len(self._delimiter)


def rewrite(lines: Iterable[str], target: Path, *, delimiter: str, width: int) -> tuple[int, list[tuple[int, str]]]:
    """Write the records of `lines` to `target` in the plainest CSV; how many there are, and which lines are none.

    A line comes with its place among records and such lines, from 0.
    """
    bad: list[tuple[int, str]] = []
    count = 0
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for count, record in enumerate(Splitter(delimiter, width).records(lines), start=1):
            if isinstance(record, str) or any(map(_damaged, record)):
                told = record if isinstance(record, str) else delimiter.join(record)
                bad.append((count - 1, told.encode(errors="replace").decode()))
            else:
                writer.writerow(record)
    return count - len(bad), bad


def _damaged(value: str) -> bool:
    """Whether it holds a byte that is no UTF-8."""
    return not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value)
