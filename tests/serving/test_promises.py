"""What docs/contracts.md promises of serving in numbers and names is what the code has.

What happens at each of these limits is tested where it is made; here none can change in one place alone.
"""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from events import compaction, segments, writer
from events.consumer import (
    attribution,
    consumer,
    noting,
    retention,
)
from events.consumer.metrics import ConsumerMetrics
from runtime import clocks
from serving import releases, run_gateway
from serving.gateway import (
    api,
    app,
    breaker,
    error_handlers,
    lag,
    metrics,
    overload,
    probes,
    tables,
)
from serving.gateway.after import after, news
from serving.gateway.connections import ConnectionLimits
from serving.gateway.placements import session
from serving.plain.app import MAX_REQUEST_BYTES
from serving.scoring import reasons
from serving.torchserve import server

ROOT = Path(__file__).parents[2]
CONTRACTS = " ".join((ROOT / "docs" / "contracts.md").read_text().split())
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = ROOT / "k8s" / "components" / "monitoring" / "alerts.yaml"
GIVEN = ConnectionLimits()
HOUR = timedelta(hours=1)
NUMBERS = ("no", "one", "two", "three", "four", "five")


def most(model: Any, name: str) -> int:
    """Entries that a list of a request may have."""
    (found,) = [each.max_length for each in model.model_fields[name].metadata if hasattr(each, "max_length")]
    return int(found)


def days(found: timedelta) -> str:
    return f"{found // timedelta(days=1)} days"


PROMISES = (
    f"bodies above {error_handlers.MAX_BODY // 1024} KiB "
    f"(of {' and '.join(f'`{path}`' for path in error_handlers.LONGER)} "
    f"{max(error_handlers.LONGER.values()) // 1024} KiB) are",
    f"Bodies above {MAX_REQUEST_BYTES // 2**20} MiB are answered with 413",
    f"Headers have {GIVEN.header_bytes // 1024} KiB (431) and {GIVEN.header_seconds:.0f} s,",
    f"bodies {GIVEN.body_seconds:.0f} s (408, or the connection ends)",
    f"an idle connection is closed after {run_gateway.KEEP_ALIVE} s",
    f"At most {GIVEN.connections:,} in all (`--connections`) and {GIVEN.of_address} of an address",
    f"(at most {most(api.Who, 'session')}, within {days(session.OLDEST)} before now and an hour after)",
    f"(up to {most(api.AvailabilityRequest, 'withdrawn')} each;",
    f"(it reads what is new each {['', 'half '][news.READ_SECONDS == 0.5]}second)",
    f"Beyond {reasons.SHOWN} shares the small ones",
    f"503 with `Retry-After: {overload.RETRY_SECONDS}`",
    f"within {app.IN_TIME:.1g}".replace("0.", ".") + " of the champion's deadline and falls by a fifth",
    f"never less than {1000 * lag.STANDS:.0f} ms late within {lag.WINDOW:.1g} s".replace(" 0.", " ."),
    f"asked one of its goldens each {1000 * probes.PROBE_SECONDS:.0f} ms",
    f"after {NUMBERS[breaker.FAILURES]} failures in a row, or {NUMBERS[int(breaker.DOUBT_SECONDS)]} second after",
    f"the champion's neighbour tables ({tables.MOST_BYTES // 2**20}; 0 for none)",
    f"at most {segments.ROLL_SECONDS:.0f} s and {segments.ROLL_BYTES // 10**6} MB",
    f"on disk {writer.SYNC_SECONDS:.1f} s later",
    f"(an outcome waits {noting.WAIT.seconds} s for it)",
    f"within {days(attribution.ATTRIBUTION)} after it, by clocks that differ by an hour at most",
    f"beyond {noting.MOST_AN_HOUR} in an hour a shopper's are set aside",
    f"exposures of the last {days(attribution.ATTRIBUTION)}",
    f"all others {days(retention.KEPT)}",
    f"again after {releases.FIRST_REST:.0f} s, then {2 * releases.FIRST_REST:.0f}, {4 * releases.FIRST_REST:.0f} …, "
    f"{releases.LONGEST_REST:.0f} at most",
    f"beyond {metrics._MOST_TYPES} types `other`",
    f"With rules 2·`k` + {after.MORE} items are ranked for `k`",
)


@pytest.mark.parametrize("promise", PROMISES)
def test_a_number_of_the_contracts_is_the_code_s(promise: str) -> None:
    assert promise in CONTRACTS


def test_what_is_promised_in_words_is_the_code_s() -> None:
    assert timedelta(seconds=releases.UNUSED_SECONDS) == HOUR, "what nobody used for an hour is deleted"
    assert timedelta(seconds=compaction.READERS_SECONDS) == HOUR, "merged files are removed an hour later"
    assert clocks.TOLERANCE == HOUR, "by clocks that differ by an hour at most"
    assert overload.FALL == 0.8, "falls by a fifth"
    assert overload.MEMORY_SHARE == 0.25, "a quarter more than models answered at their best"
    assert server.KEY_MINUTES / 2 == 30, "another key after half an hour"
    assert consumer.ERASE_SECONDS <= 0.5


def exported(registry: CollectorRegistry) -> dict[str, tuple[str, frozenset[str]]]:
    """Type and labels of each metric, by the name that Prometheus has of it."""
    found = {}
    for each in registry._collector_to_names:
        name, kind, labels = each._name, each._type, frozenset(each._labelnames)  # type: ignore[attr-defined]
        found[f"{name}_total" if kind == "counter" else name] = (kind, labels)
    return found


def test_the_contracts_name_every_metric_of_gateway_and_consumer_with_type_and_labels() -> None:
    page = (ROOT / "docs" / "contracts.md").read_text()
    rows = re.findall(r"^\| (`(?:gateway|consumer)_[^|]*) \| (\w+) \| ([^|]*)\|", page, re.MULTILINE)
    promised = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for names, kind, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert promised == exported(metrics.GatewayMetrics().registry) | exported(ConsumerMetrics().registry)


def test_the_alert_of_refusals_counts_what_its_page_names_and_the_gateway_gives() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["spec"]["groups"] for rule in group["rules"]]
    (alert,) = [rule["expr"] for rule in rules if rule.get("alert") == "GatewayRefusesRequests"]
    counted = re.search(r'code=~"([^"]*)"', alert)
    assert counted is not None
    born = {str(code) for code in metrics._REFUSED}
    assert {code for code in born if re.fullmatch(counted[1], code)} == born, "a series appears with its first fault"
    assert {code for code in counted[1].split("|") if code != "5.."} == {code for code in born if code < "500"}
    page = OPERATIONS.partition("### GatewayRefusesRequests")[2].partition("###")[0].partition("Look:")[0]
    assert set(re.findall(r"\b[45]\d\d\b", page)) == born
