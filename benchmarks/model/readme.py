"""The README's table of models, made from the result file of `bench-quality`.

`python -m benchmarks.model.readme` writes it between its two marks.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "quality_amazon_beauty_full.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- quality: made by benchmarks/model/readme.py -->", "<!-- end of quality -->"
HEAD = ("model", "HR@10", "NDCG@10", "rare items", "new items", "short histories", "parameters", "CPU minutes")
MAIN = ("popularity", "sasrec_plain", "sasrec_own", "hstu", "sasrec_features", "neighbours", "sasrec", "heterrec")


def table(results: dict[str, Any]) -> str:
    """The main rows as Markdown: means over the seeds, NDCG@10 with its spread."""
    rows = {row["row"]: row for row in results["rows"]}
    lines = [" | ".join(HEAD), " | ".join("---" for _ in HEAD)]
    lines += [" | ".join(_cells(rows[name])) for name in MAIN if name in rows]
    return "\n".join(f"| {line} |" for line in lines)


def written(readme: str, results: dict[str, Any]) -> str:
    """`readme` with the table of `results` between the marks."""
    mark = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not mark.search(readme):
        raise ValueError(f"{README}: has no {BEGIN!r} … {END!r}; put the two marks where the table belongs")
    return mark.sub(lambda _: f"{BEGIN}\n{table(results)}\n{END}", readme)


def _cells(row: dict[str, Any]) -> list[str]:
    spread = f" ± {_short(row['spread'])}" if row["seeds"] > 1 else ""
    slices = [_short(row["slices"][name]) for name in ("rare_items", "new_items", "short_history")]
    parameters = f"{row['parameters']:,}" if row["parameters"] else ""
    minutes = f"{row['cpu_seconds'] / 60:.1f}" if row["cpu_seconds"] else ""
    return [row["title"], _short(row["hr@10"]), f"{_short(row['ndcg@10'])}{spread}", *slices, parameters, minutes]


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


if __name__ == "__main__":
    README.write_text(written(README.read_text(), json.loads(RESULTS.read_text())))
