"""What a console is told at its start: where metrics are, whether changes are allowed, what names it is called by."""

from dataclasses import dataclass, field

from experiments.policy import Policy

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
METRICS = ("http://127.0.0.1:8001", "http://127.0.0.1:9200")
"""Where gateway and consumer of one machine tell of themselves, unless they were told otherwise."""


@dataclass(frozen=True, kw_only=True)
class ConsoleSettings:
    """Everything else is read where it lies: the workspace, the rollout table, the event log."""

    metrics: tuple[str, ...] = METRICS
    """Addresses of /metrics and /ready. A name that stands for several machines is asked at each of them."""
    prometheus: str = ""
    """Address of a Prometheus, which knows every replica and the alerts."""
    mlflow: str = ""
    """Address of MLflow's server, which keeps every run that trained; of another kind, or none: unknown."""
    hosts: tuple[str, ...] = LOOPBACK
    """Names by which browsers may call the console (the `Host` they send, without its port)."""
    changes: bool = False
    """Whether a person may promote, roll back and pause here."""
    user_header: str = ""
    """The header by which a login proxy says who asks; without one, whoever changes something writes the name down."""
    policy: Policy = field(default_factory=Policy)
    """Of the rollout: the margin and the durations that pages show."""
