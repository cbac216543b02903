"""What a person sees of a local run: one line a task, a bar while a model trains; everything else goes to the log."""

import io
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
)

from runtime.log import parse

MARKS = {"done": "[green]✓[/]", "reused": "[cyan]↺[/]", "failed": "[red]✗[/]"}


class Terminal(io.TextIOBase):
    """Stands in for standard output during a run: shows the events, keeps every line in `log`."""

    def __init__(self, log: TextIO, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False)
        self._log = log
        self._partial = ""
        self._bar: Progress | None = None
        self._bar_task: TaskID | None = None
        self._printed_tenths = -1

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._partial += text
        *lines, self._partial = self._partial.split("\n")
        for line in lines:
            self._log.write(line + "\n")
            if event := parse(line):
                self.show(event)
        return len(text)

    def flush(self) -> None:
        self._log.flush()

    def show(self, event: dict[str, Any]) -> None:
        """Render one event of runtime/log.py; kinds without a rendering stay in the log."""
        if event["event"] == "progress":
            self._progress(event)
        elif event["event"] == "task_ended":
            self._end_bar()
            how = "reused (same data, config and code)" if event["status"] == "reused" else ""
            self._line(MARKS[event["status"]], event["task"], f"{event['seconds']:6.1f} s  {how}")
        elif event["event"] == "task_failed":
            self._end_bar()
            self._line(MARKS["failed"], event["task"], "failed")
        elif event["event"] == "plan":
            self._line(" ", event["task"], escape(event["sentence"]))
        elif event["event"] == "pace":
            self._line(" ", event["task"], pace(event))
        elif event["event"] == "power" and not event["enough"]:
            self._line("[yellow]![/]", "power", escape(event["sentence"]))
        elif event["event"] == "artifact_damaged":
            self._line("[yellow]![/]", "repair", escape(event["error"]))

    def _line(self, mark: str, task: str, text: str) -> None:
        self.console.print(f"  {mark} {task:<15} {text}", soft_wrap=True)

    def _progress(self, event: dict[str, Any]) -> None:
        text = (
            f"epoch {event['epoch']}/{event['epochs']}  loss {event['loss']:.3f}  "
            f"{event['sequences_per_second']:,.0f} sequences/s  {clock(event['seconds_left'])} left"
        )
        share = event["step"] / max(1, event["steps"])
        if not self.console.is_terminal:
            # A pipe gets a line every tenth of the way instead of a bar that redraws itself.
            if int(share * 10) > self._printed_tenths:
                self._printed_tenths = int(share * 10)
                self._line(" ", event["task"], f"{share:4.0%}  {text}")
            return
        if self._bar is None:
            columns = (TextColumn("    {task.description:<15}"), BarColumn(24), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._bar_task = self._bar.add_task(event["task"], total=1.0, text=text)
        assert self._bar_task is not None
        self._bar.update(self._bar_task, completed=share, text=text)

    def _end_bar(self) -> None:
        self._printed_tenths = -1
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def pace(event: dict[str, Any]) -> str:
    """How long training will take on this machine as it is now, and what that is said by."""
    return (
        f"{event['steps']:,} steps, {clock(event['seconds_left'])} left at the pace of the last {event['measured']} "
        f"({event['each']:.2f} s each)"
    )


def clock(seconds: float) -> str:
    """Seconds as 4m05s."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes}m{rest:02d}s"
