"""For each alert series on which it fires, and series as near as possible on which it does not.

Those without a namespace are of this one.

Values are promtool's: `0+60x30` begins at 0 and grows by 60 thirty times, a minute each.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    alert: str
    what: str
    series: dict[str, str]
    labels: dict[str, str] | None
    """Of the one alert that fires, besides its severity and namespace; None where none may."""
    at: str = "30m"

    def __str__(self) -> str:
        return f"{self.alert}: {self.what}"


def _share(metric: str, bad: str, good: str, rate: int) -> dict[str, str]:
    """`rate` of 100 a minute are bad ones."""
    return {f"{metric}{{{bad}}}": f"0+{rate}x300", f"{metric}{{{good}}}": f"0+{100 - rate}x300"}


def _answers(status: str, rate: int) -> dict[str, str]:
    return _share("gateway_recommendations_total", f'status="{status}"', 'status="ok"', rate)


def _slow(seconds_of_p99: float) -> dict[str, str]:
    """A histogram in which 2 of 100 requests take longer than `seconds_of_p99`'s bucket."""
    edges = (0.1, 0.25, 0.5, 2.5)
    return {
        f'gateway_request_seconds_bucket{{le="{edge}"}}': f"0+{98 if edge <= seconds_of_p99 else 100}x300"
        for edge in edges
    } | {'gateway_request_seconds_bucket{le="+Inf"}': "0+100x300"}


def _served(part: str, failures: int) -> dict[str, str]:
    return {
        f'gateway_failures_total{{part="{part}"}}': f"0+{failures}x300",
        'gateway_recommendations_total{status="ok"}': "0+100x300",
    }


def _probes(failed: int) -> dict[str, str]:
    return _share("gateway_probes_total", 'version="1.0", result="failed"', 'version="1.0", result="ok"', failed)


def _ready(**pods: int) -> dict[str, str]:
    labels = 'condition="true"'
    return {
        f'kube_pod_status_ready{{{labels}, pod="{pod.replace("_", "-")}"}}': f"{on}x300" for pod, on in pods.items()
    }


def _outcomes(unmatched: int) -> dict[str, str]:
    return _share("consumer_interactions_total", 'result="unmatched"', 'result="added"', unmatched)


def _volume(left: int) -> dict[str, str]:
    labels = 'persistentvolumeclaim="heterrec-workspace"'
    return {
        f"kubelet_volume_stats_available_bytes{{{labels}}}": f"{left}x300",
        f"kubelet_volume_stats_capacity_bytes{{{labels}}}": "100x300",
    }


def _look(age_minutes: int, weight: float) -> dict[str, str]:
    """Times are seconds since the epoch, and promtool's clock begins there."""
    return {
        'rollout_last_look_timestamp_seconds{model="m"}': f"{(300 - age_minutes) * 60}x300",
        'rollout_weight{model="m"}': f"{weight}x300",
    }


CASES = [
    Case("GatewayDown", "none is known", {'up{job="heterrec-consumer"}': "1x30"}, {}),
    Case(
        "GatewayDown",
        "one of two is up",
        {'up{job="heterrec-gateway", pod="a"}': "0x30", 'up{job="heterrec-gateway", pod="b"}': "1x30"},
        None,
    ),
    Case("GatewayDown", "somebody else's is up", {'up{job="heterrec-gateway", namespace="elsewhere"}': "1x30"}, {}),
    Case(
        "GatewayNotReady",
        "of somebody who has no installation of ours",
        {'kube_pod_status_ready{condition="true", namespace="istio-system", pod="gateway-a"}': "0x300"},
        None,
    ),
    Case("GatewayNotReady", "three run and none is ready", _ready(gateway_7d_a=0, gateway_7d_b=0, gateway_7d_c=0), {}),
    Case("GatewayNotReady", "KServe's", _ready(recommender_predictor_7d_a=0), {}),
    Case(
        "GatewayNotReady",
        "one of two is, and the consumer is not",
        _ready(gateway_7d_a=0, gateway_7d_b=1, consumer_5f_x=0),
        None,
    ),
    Case("GatewayErrors", "two in a hundred", _answers("error", 2), {}),
    Case(
        "GatewayErrors",
        "hidden by another installation's traffic",
        _answers("error", 2) | {'gateway_recommendations_total{status="ok", namespace="elsewhere"}': "0+100000x300"},
        {},
    ),
    Case("GatewayErrors", "one in a hundred", _answers("error", 1), None),
    Case(
        "GatewayErrors",
        "nobody asks",
        _answers("error", 0) | {'gateway_recommendations_total{status="ok"}': "5x300"},
        None,
    ),
    Case("GatewayFallbacks", "six in a hundred", _answers("fallback", 6), {}),
    Case("GatewayFallbacks", "five in a hundred", _answers("fallback", 5), None),
    Case("GatewaySlow", "two in a hundred above .25 s", _slow(0.25), {}),
    Case("GatewaySlow", "two in a hundred above .1 s", _slow(0.1), None),
    Case("GatewayRefusesRequests", "a second each", {'gateway_refused_total{code="401"}': "0+60x300"}, {"code": "401"}),
    Case("GatewayRefusesRequests", "what a shop got wrong", {'gateway_refused_total{code="422"}': "0+60x300"}, None),
    Case(
        "VersionOutOfTraffic",
        "in one gateway of two",
        {
            'gateway_out_of_traffic{version="1.0", pod="a"}': "1x300",
            'gateway_out_of_traffic{version="1.0", pod="b"}': "0x300",
        },
        {"version": "1.0"},
    ),
    Case(
        "VersionOutOfTraffic",
        "for a minute",
        {'gateway_out_of_traffic{version="1.0"}': "0x10 1x0 0x300"},
        None,
        at="11m",
    ),
    Case("VersionFailsProbes", "one in five", _probes(20), {"version": "1.0"}),
    Case("VersionFailsProbes", "one in twenty", _probes(5), None),
    Case("RolloutTableAway", "an old row", {"gateway_rollout_age_seconds": "0+60x300"}, {}),
    Case(
        "RolloutTableAway",
        "the exporter cannot read it",
        {"gateway_rollout_age_seconds": "1x300", "rollout_table_readable": "0x300"},
        {},
    ),
    Case(
        "RolloutTableAway",
        "a row of just now",
        {"gateway_rollout_age_seconds": "2x300", "rollout_table_readable": "1x300"},
        None,
    ),
    Case("NewsAway", "cut off", {"gateway_news_age_seconds": "0+60x300"}, {}),
    Case("NewsAway", "read just now", {"gateway_news_age_seconds": "1x300"}, None),
    Case("HistoriesAway", "two in a hundred", _served("history", 2), {}),
    Case("HistoriesAway", "another part", _served("1.0", 50), None),
    Case(
        "TorchServeDown",
        "one pod",
        {'up{job="heterrec-torchserve", pod="a"}': "0x300", 'up{job="heterrec-torchserve", pod="b"}': "1x300"},
        {"job": "heterrec-torchserve", "pod": "a"},
    ),
    Case("TorchServeDown", "none", {'up{job="heterrec-torchserve", pod="a"}': "1x300"}, None),
    Case(
        "EventsLost", "one a minute", {'gateway_log_failures_total{table="outcomes"}': "0+1x300"}, {"table": "outcomes"}
    ),
    Case("EventsLost", "none", {'gateway_log_failures_total{table="outcomes"}': "7x300"}, None),
    Case("ConsumerDown", "none is up", {'up{job="heterrec-consumer"}': "0x300"}, {}),
    Case("ConsumerDown", "it restarts", {'up{job="heterrec-consumer"}': "1x25 0x2 1x300"}, None),
    Case("ConsumerBehind", "ever more", {"consumer_lag_seconds": "0+60x300"}, {}),
    Case("ConsumerBehind", "a flush's time", {"consumer_lag_seconds": "35x300"}, None),
    Case(
        "ConsumerFailing",
        "six a minute",
        {'consumer_failures_total{part="histories"}': "0+6x300"},
        {"part": "histories"},
    ),
    Case("ConsumerFailing", "once", {'consumer_failures_total{part="histories"}': "0x10 1x300"}, None),
    Case("ConsumerStuck", "for half an hour", {"consumer_last_success_timestamp_seconds": "60x300"}, {}),
    Case("ConsumerStuck", "every minute", {"consumer_last_success_timestamp_seconds": "0+60x300"}, None),
    Case("OutcomesUnmatched", "one in ten", _outcomes(10), {}, at="180m"),
    Case("OutcomesUnmatched", "one in a hundred", _outcomes(1), None, at="180m"),
    Case("ExporterDown", "none is up", {'up{job="heterrec-exporter"}': "0x300"}, {}),
    Case("ExporterDown", "up", {'up{job="heterrec-exporter"}': "1x300"}, None),
    Case("RunFailed", "the latest", {'pipeline_last_run_failed{dataset="m"}': "1x300"}, {"dataset": "m"}),
    Case("RunFailed", "none", {'pipeline_last_run_failed{dataset="m"}': "0x300"}, None),
    Case(
        "TrainingLate",
        "two days",
        {'pipeline_last_success_timestamp_seconds{dataset="m"}': "0x3000"},
        {"dataset": "m"},
        at="48h",
    ),
    Case("TrainingLate", "one day", {'pipeline_last_success_timestamp_seconds{dataset="m"}': "0x3000"}, None, at="24h"),
    Case(
        "TrainingLate",
        "of data that was never known",
        {'pipeline_last_success_timestamp_seconds{dataset="unknown"}': "0x3000"},
        None,
        at="48h",
    ),
    Case(
        "DataGateBlocked",
        "blocked",
        {'pipeline_gate_passed{dataset="m", gate="validate"}': "0x300"},
        {"dataset": "m", "gate": "validate"},
    ),
    Case(
        "DataGateBlocked",
        "another gate",
        {
            'pipeline_gate_passed{dataset="m", gate="evaluate"}': "0x300",
            'pipeline_gate_passed{dataset="m", gate="validate"}': "1x300",
        },
        None,
    ),
    Case(
        "ModelBlocked",
        "by evaluate",
        {'pipeline_gate_passed{dataset="m", gate="evaluate"}': "0x300"},
        {"dataset": "m", "gate": "evaluate"},
    ),
    Case("ModelBlocked", "passed", {'pipeline_gate_passed{dataset="m", gate="evaluate"}': "1x300"}, None),
    Case(
        "RefitSetAside",
        "a check did not hold",
        {
            'pipeline_gate_reasons{dataset="m", gate="refit", level="warned"}': "1x300",
            'pipeline_gate_reasons{dataset="m", gate="refit", level="blocked"}': "0x300",
        },
        {"dataset": "m"},
    ),
    Case(
        "RefitSetAside",
        "refitted, though another gate warned",
        {
            'pipeline_gate_reasons{dataset="m", gate="refit", level="warned"}': "0x300",
            'pipeline_gate_reasons{dataset="m", gate="evaluate", level="warned"}': "3x300",
        },
        None,
    ),
    Case("RolloutLookLate", "two hours", _look(120, 0.05), {"model": "m"}, at="5h"),
    Case("RolloutLookLate", "ten minutes", _look(10, 0.05), None, at="5h"),
    Case("RolloutLookLate", "no canary", _look(120, 0.0), None, at="5h"),
    Case(
        "CanaryRolledBack",
        "just now",
        {'rollout_last_look{model="m", action="roll back"}': "1x300"},
        {"model": "m", "action": "roll back"},
    ),
    Case("CanaryRolledBack", "held", {'rollout_last_look{model="m", action="hold"}': "1x300"}, None),
    Case(
        "VolumeFillsUp",
        "five in a hundred left",
        _volume(5),
        {"persistentvolumeclaim": "heterrec-workspace"},
    ),
    Case("VolumeFillsUp", "half", _volume(50), None),
    Case(
        "VolumeFillsUp",
        "a notebook's, in the same profile",
        {
            f'kubelet_volume_stats_{what}_bytes{{persistentvolumeclaim="notebook"}}': value
            for what, value in (("available", "1x300"), ("capacity", "100x300"))
        },
        None,
    ),
]
