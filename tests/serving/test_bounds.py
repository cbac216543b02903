"""What grows while the shop is served has a bound: TorchServe's logs, its console, and its queue."""

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from serving.torchserve import server as torchserve
from serving.torchserve.handler import OTHER_CLOCK, RecommendationHandler, late
from serving.torchserve.server import TorchServe

CONFIGURATION = Path(torchserve.__file__).with_name("log4j2.xml")


def test_every_log_of_torchserve_is_rotated_by_size_into_so_many_files() -> None:
    root = ElementTree.parse(CONFIGURATION).getroot()
    files = root.findall("Appenders/RollingFile")
    assert {re.sub(r".*/", "", file.attrib["fileName"]) for file in files} == {
        "access_log.log", "model_log.log", "ts_log.log"
    }  # fmt: skip
    total = 0
    for file in files:
        # With the day in its name a rotated file would be another one each day, for ever.
        assert "%i" in file.attrib["filePattern"] and "%d" not in file.attrib["filePattern"]
        (size,), (kept,) = file.findall("SizeBasedTriggeringPolicy"), file.findall("DefaultRolloverStrategy")
        total += int(size.attrib["size"].removesuffix(" MB")) * (1 + int(kept.attrib["max"]))
    assert total <= 100, "MB, in a pod's folder of 8 GiB"
    (console,) = [ref for ref in root.iterfind("Loggers/Root/AppenderRef") if ref.attrib["ref"] == "console"]
    assert console.attrib["level"] == "warn", "nothing of each request"


def test_a_long_console_is_cut_to_its_end_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchserve, "MOST_CONSOLE", 1_000)
    server, path = TorchServe(tmp_path), tmp_path / "console.log"
    with path.open("ab", buffering=0) as console:
        for number in range(2_000):
            console.write(b"line %d\n" % number)
            server.cut_console()
            assert path.stat().st_size <= 1_010
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["console.1.log", "console.log"]
    assert sum(file.stat().st_size for file in files) <= 1_200 and path.read_bytes().endswith(b"line 1999\n")


def test_what_nobody_waits_for_any_more_is_not_scored() -> None:
    scored: list[Any] = []
    handler = RecommendationHandler()
    handler._scorer = None

    def replies(scorer: Any, bodies: list[Any]) -> list[Any]:
        scored.extend(bodies)
        return [SimpleNamespace(status=200, body=b"answer of " + body) for body in bodies]

    handler._replies = replies
    now, statuses = time.time(), {}
    deadlines = [f"{now - 1:.3f}", f"{now + 60:.3f}", None, "soon", f"{now - 2 * OTHER_CLOCK:.3f}"]
    context = SimpleNamespace(
        get_request_header=lambda index, name: deadlines[index],
        set_response_content_type=lambda index, kind: None,
        set_response_status=lambda status, why, idx: statuses.update({idx: status}),
    )
    names = [b"late", b"alive", b"patient", b"odd", b"other clock"]
    answers = handler.handle([{"body": name} for name in names], context)
    assert scored == names[1:] and statuses == {0: 408}
    assert answers[1:] == [b"answer of " + name for name in names[1:]]
    assert handler.handle([{"body": b"late"}], context)[0].startswith(b'{"error"') and len(scored) == 4
    assert late(now - 1, now) and not late("", now)
