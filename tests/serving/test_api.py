"""What may be asked of the service and by whom; whatever is sent, the answer is clear JSON and tells nothing else."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.generation.modes import GenerationMode

from experiments.document import Rollout
from serving.gateway.access import Access, AccessTokens
from serving.gateway.error_handlers import MAX_BODY
from tests.serving.open_gateway import (
    HISTORY,
    PATIENT,
    OpenGateway,
    ask,
    rows,
)

SHOP, TESTER = "token-of-the-shop-backend", "token-of-somebody-who-tests"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def tokens(monkeypatch: pytest.MonkeyPatch, given: str) -> AccessTokens:
    monkeypatch.setenv("HETERREC_SOME_TOKENS", given)
    found = AccessTokens.configured("HETERREC_SOME_TOKENS")
    assert found is not None
    return found


def test_who_tests_chooses_the_arm_and_nobody_else_and_the_judge_never_counts_it(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(tokens(monkeypatch, SHOP), tokens(monkeypatch, f"{TESTER},{TESTER}-2"))
    client = open_gateway(rollout, access=access)
    drawn = {ask(client, f"u{number}", bearer(SHOP))["variant"] for number in range(8)}
    assert drawn == {"champion", "challenger"}
    for arm, version in (("champion", "1.0"), ("challenger", "2.0")):
        answers = [ask(client, f"u{n}", {**bearer(f"{TESTER}-2"), "X-Variant": arm}) for n in range(4)]
        assert {(answer["variant"], answer["version"]) for answer in answers} == {(arm, version)}

    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post("/v1/recommendations", json={"user_id": "u"}, headers=named).status_code

    assert status() == status(Authorization="Bearer wrong") == status(Authorization=f"Basic {SHOP}") == 401
    assert status(Authorization=f"Bearer {SHOP}", X_Variant="challenger") == 403
    assert status(Authorization="Bearer wrong", X_Variant="challenger") == 401
    assert status(Authorization=f"Bearer {TESTER}", X_Variant="former") == 422
    assert client.post("/v1/events", json={"request_id": "r", "event_type": "click"}).status_code == 401
    logged = rows(tmp_path / "log", "exposures")
    assert {(row["override"], row["salt"], row["stage"]) for row in logged} == {(False, "s", 3), (True, "", None)}
    alone = open_gateway(replace(rollout, challenger=None, stage=None, weight=0.0), access=access)
    headers = {**bearer(TESTER), "X-Variant": "challenger"}
    reply = alone.post("/v1/recommendations", json={"user_id": "u"}, headers=headers)
    assert (reply.status_code, reply.json()["detail"]) == (409, "no challenger serves")


def test_without_tokens_anybody_may_ask_and_nobody_may_choose(open_gateway: OpenGateway, rollout: Rollout) -> None:
    client = open_gateway(rollout)
    assert ask(client)["status"] == "ok"
    for headers in ({"X-Variant": "challenger"}, {"X-Variant": "challenger", **bearer(TESTER)}):
        assert client.post("/v1/recommendations", json={"user_id": "u"}, headers=headers).status_code == 403


@pytest.mark.parametrize("given", ["short", "   ,", "long-enough-to-be-one-of-them,short"])
def test_tokens_that_keep_nobody_out_are_refused_at_the_start(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    with pytest.raises(ValueError, match="16 characters or more"):
        tokens(monkeypatch, given)


def test_a_slip_in_a_rotation_shuts_nobody_out_and_is_told(
    open_gateway: OpenGateway,
    rollout: Rollout,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = tmp_path / "shops"
    old, new = "old-token-of-a-shop", "new-token-of-a-shop"
    file.write_text(f"{old}\n")
    monkeypatch.setenv("HETERREC_API_TOKENS_FILE", str(file))
    client = open_gateway(rollout, access=Access(AccessTokens.configured("HETERREC_API_TOKENS")))

    def allowed(token: str) -> bool:
        return client.post("/v1/recommendations", json={"user_id": "u"}, headers=bearer(token)).status_code == 200

    for slip in (f"{old}\nshort\n", "", None):
        file.unlink() if slip is None else file.write_text(slip)
        assert allowed(old) and not allowed(new) and not allowed("short")
        told = client.get("/ready").json()
        assert told["status"] == "degraded" and "the tokens of before hold" in told["problems"][0]
    assert old not in caplog.text and len([line for line in caplog.messages if "before hold" in line]) == 2
    file.write_text(f"{new}\n")
    assert allowed(new) and not allowed(old), "a right file counts at once, the old token is out"
    assert client.get("/ready").json()["status"] == "ready"


def test_filters_reach_the_model_and_the_popular_items_alike(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    client = open_gateway(rollout)
    low = ask(client, filters={"shelf": ["low"], "price": {"max": 8}})
    assert low["status"] == "ok" and {item["item_id"] for item in low["items"]} <= {"i1", "i3", "i5", "i7"}
    either = ask(client, filters={"tags": ["t1", "t2"]}, exclude_seen=False)
    assert len(either["items"]) == 3
    assert json.loads(rows(tmp_path / "log", "exposures")[0]["request"])["filters"]["price"] == {"max": 8.0}
    broken = open_gateway(rollout, torchserve="http://127.0.0.1:9")
    assert [item["item_id"] for item in ask(broken)["items"]] == ["i7", "i2"], "the shelf of i3 first"
    assert [item["item_id"] for item in ask(broken, filters={"shelf": ["top"]})["items"]] == ["i2"]
    assert [item["item_id"] for item in ask(broken, filters={"price": {"min": 5}})["items"]] == ["i7"]
    assert ask(broken, filters={"tags": ["none"]})["status"] == "error"


def test_popular_items_are_those_of_the_segment_of_the_latest_known_item(
    open_gateway: OpenGateway, rollout: Rollout
) -> None:
    unknown = {**HISTORY[0], "item_id": "gone"}
    histories = {"top": [*HISTORY, {**HISTORY[0], "item_id": "i4"}, unknown], "low": HISTORY, "new": []}
    client = open_gateway(rollout, torchserve="http://127.0.0.1:9", history=histories.__getitem__)
    shown = {user: [item["item_id"] for item in ask(client, user)["items"]] for user in histories}
    assert shown == {"top": ["i2", "i7"], "low": ["i7", "i2"], "new": ["i7", "i2"]}
    bought = open_gateway(
        rollout, torchserve="http://127.0.0.1:9", history=lambda user: [{**HISTORY[0], "item_id": "i7"}]
    )
    assert [item["item_id"] for item in ask(bought)["items"]] == ["i2"]
    assert [item["item_id"] for item in ask(bought, exclude_seen=False)["items"]] == ["i7", "i2"]


BAD = [
    (
        {"user_id": "u", "filters": {"colour": ["red"]}},
        "filters.colour",
        "no such filter; there are price, shelf, tags, released",
    ),
    ({"user_id": "u", "filters": {"price": ["red"]}}, "filters.price", "is numeric: give min and max"),
    ({"user_id": "u", "filters": {"shelf": {"min": 1}}}, "filters.shelf", "is categorical: give a list of values"),
    ({"user_id": "u", "filters": {"price": {"min": 3, "max": 2}}}, "filters.price", "min must not be above max"),
    ({"user_id": "u", "filters": {"price": {}}}, "filters.price", "give min, max or both"),
    ({"user_id": "u", "filters": {"released": {"min": "soon"}}}, "filters.released", "found 'soon', expected dates"),
    ({"user_id": "u", "filters": {"released": {"min": 20454}}}, "filters.released", "found 20454.0, expected dates"),
    ({"user_id": "u", "filters": {"released": {"within_days": 0}}}, "filters.released", "greater than 0"),
    ({"user_id": "u", "filters": {"price": {"min": "2026-01-01"}}}, "filters.price", "expected no date"),
    ({"user_id": "u", "exclude": "i1"}, "exclude", "valid list"),
    ({"user_id": "u", "k": 51}, "k", "less than or equal to 50"),
    ({"user_id": ""}, "user_id", "expected 1 to 200 characters"),
    ({"user_id": "u", "context": {"a": [1]}}, "context.a", ""),
]


@pytest.mark.parametrize(("body", "field", "message"), BAD, ids=[field for _, field, _ in BAD])
def test_a_bad_field_is_named(
    open_gateway: OpenGateway, rollout: Rollout, body: dict[str, Any], field: str, message: str
) -> None:
    reply = open_gateway(rollout).post("/v1/recommendations", json=body)
    assert reply.status_code == 422
    errors = reply.json()["errors"]
    assert errors[0]["field"].startswith(field) and any(message in error["message"] for error in errors)


HOSTILE: dict[str, bytes | Callable[[], Any]] = {
    "no JSON": b"{",
    "no UTF-8": b'{"user_id": "\xff"}',
    "half a surrogate": b'{"user_id": "\\ud800"}',
    "half a surrogate as a key": b'{"user_id": "u", "\\ud800": 1}',
    "half a surrogate in the context": b'{"user_id": "u", "context": {"\\ud800": "\\udfff"}}',
    "not a number": b'{"user_id": "u", "context": {"a": NaN}}',
    "infinity": b'{"user_id": "u", "filters": {"price": {"min": -Infinity}}}',
    "a huge number": b'{"user_id": "u", "context": {"a": 1' + b"0" * 400 + b"}}",
    "a number with too many digits": b'{"user_id": "u", "k": 1' + b"0" * 5000 + b"}",
    "a zero byte": b'{"user_id": "\\u0000", "context": {"\\u0000": "\\u0000"}}',
    "deep": b"[" * 20_000,
    "a list": b"[]",
    "null": b"null",
    "nothing": b"",
    "doubled keys": b'{"user_id": "a", "user_id": "b"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("path", ["/v1/recommendations", "/v1/events"])
def test_hostile_bodies_get_an_answer_and_change_nothing(
    open_gateway: OpenGateway, rollout: Rollout, path: str, body: bytes
) -> None:
    reply = open_gateway(rollout).post(path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code in (200, 400, 422), reply.text
    assert set(reply.json()) == {"detail", "errors"} or reply.status_code == 200
    assert (
        "Traceback" not in reply.text
        and str(Path(__file__).parents[2]) not in reply.text
        and "site-packages" not in reply.text
    )


@pytest.mark.parametrize(
    "time",
    ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2020-01-01T00:00:00Z", "2026-01-01T10:00:00", 1e300],
)
def test_an_event_of_an_impossible_moment_is_refused(open_gateway: OpenGateway, rollout: Rollout, time: Any) -> None:
    event = {"request_id": "r", "event_type": "click", "time": time}
    reply = open_gateway(rollout).post("/v1/events", json=event)
    assert reply.status_code == 422 and reply.json()["errors"][0]["field"].startswith("time")


def test_a_body_that_is_too_long_is_refused_whether_its_length_is_told_or_not(
    open_gateway: OpenGateway, rollout: Rollout
) -> None:
    client, kind = open_gateway(rollout), {"Content-Type": "application/json"}
    long = b'{"user_id": "' + b"u" * MAX_BODY + b'"}'

    def stream() -> Any:
        for _ in range(100):
            yield b" " * 1000

    for content in (long, stream()):
        reply = client.post("/v1/recommendations", content=content, headers=kind)
        assert reply.status_code == 413 and reply.json().keys() == {"detail", "errors"}
    assert client.post("/v1/recommendations", content=iter([b'{"user_id":', b' "u"}']), headers=kind).status_code == 200
    assert 'gateway_refused_total{code="413"} 2.0' in client.get("/metrics").text


def test_unknown_paths_methods_and_users_get_clear_answers(open_gateway: OpenGateway, rollout: Rollout) -> None:
    client = open_gateway(rollout, history=lambda user: [])
    assert client.get("/nowhere").json() == {"detail": "Not Found", "errors": []}
    assert client.get("/v1/events").status_code == 405
    assert ask(client, "nobody ever", exclude=["no item"])["status"] == "ok"
    reply = client.post("/v1/events", json={"request_id": "never given", "event_type": "click", "item_id": "no item"})
    assert reply.status_code == 202


def test_a_fault_of_the_service_tells_nothing(
    open_gateway: OpenGateway, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("serving.gateway.app._exposure", broken)
    reply = open_gateway(rollout).post("/v1/recommendations", json={"user_id": "u"})
    assert reply.status_code == 500 and reply.json() == {"detail": "the service failed; its log says why", "errors": []}


CHECKS = [
    schemathesis.checks.not_a_server_error, schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance, schemathesis.checks.response_schema_conformance,
]  # fmt: skip


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_fuzzing_from_the_openapi_document_finds_no_fault(
    open_gateway: OpenGateway, rollout: Rollout, mode: GenerationMode
) -> None:
    client = open_gateway(rollout, deadlines=replace(PATIENT, log=2))
    statuses: Counter[int] = Counter()

    def call(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        response = client.request(**{name: value for name, value in sent.items() if name != "cookies"})
        statuses[response.status_code] += 1
        assert "Traceback" not in response.text and "site-packages" not in response.text
        case.validate_response(response, checks=CHECKS)

    document = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    for found in document.get_all_operations():
        operation = found.ok()
        if mode == GenerationMode.NEGATIVE and operation.method == "get":
            continue  # nothing that could be wrong

        @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def all_cases(case: Any) -> None:
            call(case)

        all_cases()
    print(mode.value, dict(statuses))
    expected = {200, 202} if mode == GenerationMode.POSITIVE else {422}
    assert expected <= statuses.keys() and max(statuses) < 500
