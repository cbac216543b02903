"""A shop's own expectations: what the card may ask, that DuckDB answers as Great Expectations' pandas engine does, and
what the gate makes of the answers."""

from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from components.shared.tables import open_events
from components.validate import figures
from components.validate.checked import checked_tables
from components.validate.expectations import ask, require_expectations
from components.validate.suite import _rest, data_checks
from feature_repo.expectations import ARGUMENTS
from runtime.errors import InputError
from tests.component.make_events import at, item, make_card, write_events
from tests.component.test_validate import AS_OF, PRICES, SHOPPING, reason, validate, with_row

BRANDS = ["acme", "Acme's", "100% wool", r"a\b", "a1", None, "acme", "zeta", "", "a_b"]
ITEMS = [
    item(
        f"i{n}",
        brand=brand,
        title=f"{brand} {n % 3}",
        weight=None if n == 4 else float(n % 4),
        tags=["new", str(n % 2)],
    )
    for n, brand in enumerate(BRANDS)
]
BRAND, WEIGHT = {"column": "brand"}, {"column": "weight"}
PAIR = {"column_A": "brand", "column_B": "title", "ignore_row_if": "either_value_is_missing"}
LIST = {"column_list": ["brand", "title"], "ignore_row_if": "any_value_is_missing"}
ASKED: dict[str, list[dict[str, Any]]] = {
    "expect_column_distinct_values_to_be_in_set": [{**BRAND, "value_set": ["acme"]}],
    "expect_column_distinct_values_to_contain_set": [{**BRAND, "value_set": ["acme"]}, {**BRAND, "value_set": ["x"]}],
    "expect_column_distinct_values_to_equal_set": [
        {**WEIGHT, "value_set": [0, 1, 2, 3]},
        {**BRAND, "value_set": ["x"]},
    ],
    "expect_column_max_to_be_between": [
        {**WEIGHT, "max_value": 3},
        {**WEIGHT, "max_value": 3, "strict_max": True},
        {"column": "event_time", "max_value": "2020-01-01T00:00:00"},
    ],
    "expect_column_mean_to_be_between": [{**WEIGHT, "min_value": 1, "max_value": 1.3}],
    "expect_column_median_to_be_between": [{**WEIGHT, "max_value": 0.5}],
    "expect_column_min_to_be_between": [{**WEIGHT, "min_value": 0}],
    "expect_column_most_common_value_to_be_in_set": [{**BRAND, "value_set": ["acme"]}],
    "expect_column_pair_values_a_to_be_greater_than_b": [PAIR, {**PAIR, "column_A": "title", "column_B": "brand"}],
    "expect_column_pair_values_to_be_equal": [PAIR],
    "expect_column_pair_values_to_be_in_set": [{**PAIR, "value_pairs_set": [["acme", "acme 0"]]}],
    "expect_column_proportion_of_non_null_values_to_be_between": [{**BRAND, "max_value": 0.5}],
    "expect_column_proportion_of_unique_values_to_be_between": [{**BRAND, "min_value": 0.9}],
    "expect_column_stdev_to_be_between": [{**WEIGHT, "min_value": 1.11, "max_value": 1.13}],
    "expect_column_sum_to_be_between": [{**WEIGHT, "min_value": 100}],
    "expect_column_unique_value_count_to_be_between": [{**BRAND, "max_value": 3}],
    "expect_column_value_lengths_to_be_between": [{**BRAND, "min_value": 3, "max_value": 4}],
    "expect_column_value_lengths_to_equal": [{**BRAND, "value": 4}],
    "expect_column_value_z_scores_to_be_less_than": [{**WEIGHT, "threshold": 1, "double_sided": True}],
    "expect_column_values_to_be_between": [
        {**WEIGHT, "min_value": 1, "max_value": 2},
        {"column": "event_time", "min_value": "2026-01-01T00:00:00"},
        {**WEIGHT, "max_value": 1, "row_condition": {
            "type": "comparison", "column": {"name": "weight"}, "operator": ">", "parameter": 0.5}},
    ],
    "expect_column_values_to_be_in_set": [{**BRAND, "value_set": ["acme", "Acme's"], "mostly": 0.3}],
    "expect_column_values_to_be_null": [BRAND],
    "expect_column_values_to_be_unique": [BRAND, {"column": "item_id"}],
    "expect_column_values_to_match_like_pattern": [{**BRAND, "like_pattern": "a%"}],
    "expect_column_values_to_match_like_pattern_list": [{**BRAND, "like_pattern_list": ["a%", "z%"]}],
    "expect_column_values_to_match_regex": [
        {**BRAND, "regex": "cm"},
        {**BRAND, "regex": r"^\w+\d$"},
        {**BRAND, "regex": r"\\"},
        {**BRAND, "regex": "'"},
    ],
    "expect_column_values_to_match_regex_list": [{**BRAND, "regex_list": ["^a", "%"], "match_on": "any"}],
    "expect_column_values_to_not_be_in_set": [{**BRAND, "value_set": ["Acme's"]}],
    "expect_column_values_to_not_be_null": [BRAND, {**BRAND, "mostly": 0.8}],
    "expect_column_values_to_not_match_like_pattern": [{**BRAND, "like_pattern": "%me%"}],
    "expect_column_values_to_not_match_like_pattern_list": [{**BRAND, "like_pattern_list": ["%me%", "z%"]}],
    "expect_column_values_to_not_match_regex": [{**BRAND, "regex": "cm"}],
    "expect_column_values_to_not_match_regex_list": [{**BRAND, "regex_list": ["cm", "^z"]}],
    "expect_compound_columns_to_be_unique": [LIST, {**LIST, "column_list": ["brand", "item_id"]}],
    "expect_multicolumn_sum_to_equal": [{**LIST, "column_list": ["weight", "image size"], "sum_total": 4}],
    "expect_multicolumn_values_to_be_equal": [LIST],
    "expect_select_column_values_to_be_unique_within_record": [LIST],
    "expect_table_row_count_to_be_between": [{"min_value": 11}],
    "expect_table_row_count_to_equal": [{"value": 10}],
    "unexpected_rows_expectation": [{"unexpected_rows_query": "SELECT * FROM {batch} WHERE brand LIKE '%me%'"}],
}  # fmt: skip
IN_SQL_ALONE = {
    "expect_column_values_to_match_like_pattern": 3 / 8,
    "expect_column_values_to_match_like_pattern_list": 2 / 8,
    "expect_column_values_to_not_match_like_pattern": 3 / 8,
    "expect_column_values_to_not_match_like_pattern_list": 4 / 8,
    "unexpected_rows_expectation": 3,
}
"""What Great Expectations' pandas engine does not know, counted by hand: of eight brands five begin with an a."""


def own(type: str, kwargs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"table": "items", "type": type, "kwargs": kwargs, **more}


def by_pandas(frame: Any, cases: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[bool, float | None]]:
    """Of each case whether it holds, and the share of rows that are otherwise (of a figure: the figure)."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.registry import get_expectation_impl

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    for type, kwargs in cases:
        result = batch.validate(get_expectation_impl(type)(**kwargs), result_format="BASIC")
        assert not result.exception_info.get("raised_exception"), result.exception_info
        found = result.result
        if "element_count" in found:
            rows = found["element_count"] - found.get("missing_count", 0)
            yield bool(result.success), found["unexpected_count"] / rows if rows else 0.0
        else:
            yield bool(result.success), found.get("observed_value")


def test_every_type_answers_over_duckdb_as_over_pandas(tmp_path: Path):
    assert set(ASKED) == set(ARGUMENTS)
    cases = [(type, kwargs) for type, several in ASKED.items() for kwargs in several]
    card = make_card(expectations=[own(type, kwargs) for type, kwargs in cases])
    events = write_events(tmp_path, card, SHOPPING, ITEMS, PRICES)
    checks = [check for check in data_checks(card) if check.field.startswith("expectations.")]
    with open_events(card, events, AS_OF) as db:
        figures.prepare(card, db, events)
        answers = ask(card, db, checks, AS_OF, None)
        view = checked_tables(card)["items"].view
        frame = db.execute(f"SELECT * REPLACE (event_time AT TIME ZONE 'UTC' AS event_time) FROM {view}").df()
    frame["brand"] = frame["brand"].where(frame["brand"].notna(), None)
    assert {answer.held for answer in answers.values()} == {True, False}
    for check in checks:
        answer = answers[check.name]
        assert not str(answer.found).startswith("no answer"), (check, answer.found)
        assert check.type not in IN_SQL_ALONE or answer.found == IN_SQL_ALONE[check.type], check
    shared = [(type, kwargs) for type, kwargs in cases if type not in IN_SQL_ALONE]
    asked = [check for check in checks if check.type not in IN_SQL_ALONE]
    for check, (success, found) in zip(asked, by_pandas(frame, shared), strict=True):
        assert answers[check.name].held == success, (check, answers[check.name].found, found)
        if isinstance(found, float):
            assert answers[check.name].found == pytest.approx(found), check


def test_what_the_card_may_ask_is_what_great_expectations_takes():
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.registry import get_expectation_impl

    ours = {*Expectation.__fields__, "batch_id", "library_metadata"}
    for type, (needed, optional) in ARGUMENTS.items():
        fields = {name: field for name, field in get_expectation_impl(type).__fields__.items() if name not in ours}
        assert {*needed.split(), *optional.split()} == set(fields), type
        assert {name for name, field in fields.items() if field.required} <= set(needed.split()), type


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            own("expect_column_values_to_match_regx", BRAND),
            "type: found '.*regx', expected expect_column_values_to_match_regex ",
        ),
        (own("expect_nothing", {}), "type: found 'expect_nothing', expected one of expect_column"),
        (
            own("expect_column_values_to_match_regex", {**BRAND, "regx": "a"}),
            "found 'regx', expected some of column, re",
        ),
        (own("expect_column_values_to_match_regex", BRAND), "'regex' is missing"),
        (
            own("expect_column_values_to_be_null", {"column": "brnd"}),
            "0.kwargs: found column 'brnd', .*item_id, .*brand",
        ),
        (own("expect_column_values_to_be_null", {"column": "price"}), "found column 'price'"),
        (
            {**own("expect_column_values_to_be_null", BRAND), "table": "users"},
            "0.table: found 'users', expected one of",
        ),
        (own("expect_column_max_to_be_between", {**BRAND, "max_value": datetime.now(UTC)}), "valid JSON"),
        (own("expect_column_values_to_be_null", BRAND, severity="critical"), "'block' or 'warn'"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_card(asked, told):
    with pytest.raises(ValueError, match=told):
        make_card(expectations=[asked])


def test_kwargs_that_great_expectations_refuses_are_told_before_data_is_read():
    card = make_card(expectations=[own("expect_column_values_to_be_null", {**BRAND, "mostly": 2})])
    with pytest.raises(InputError, match=r"card 'tiny': expectations\.0: .* expect_column_values_to_be_null: mostly: "):
        require_expectations(card)


def test_the_gate_blocks_or_warns_as_the_card_says_and_shows_the_rows(tmp_path):
    regex = own("expect_column_values_to_match_regex", {**BRAND, "regex": r"^[a-z]+$"}, notes="Brands are one word")
    since = {"column": "event_time", "min_value": "2026-01-02T00:00:00"}
    card = make_card(
        expectations=[
            regex,
            {**regex, "kwargs": {**regex["kwargs"], "mostly": 0.5}, "severity": "warn"},
            own("expect_column_values_to_match_regex", {**BRAND, "regex": "(?=look)ahead"}, severity="warn"),
            {"table": "interactions", "type": "expect_column_values_to_be_between", "kwargs": since},
            {
                "table": "varying",
                "type": "expect_column_mean_to_be_between",
                "kwargs": {"column": "price", "max_value": 1},
            },
        ]
    )
    decision = validate(tmp_path, card=card, items=with_row([item(f"i{n}") for n in range(4)], 2, brand="Its 2nd"))
    found = reason(decision, "items brand: values to match regex")
    assert (found.held, found.level, found.found, found.allowed) == (False, "block", 0.25, 0.0)
    assert found.message == "Brands are one word: not so in 25.00% of 4 rows, allowed 0.00%."
    assert found.remedy == "correct the source, or change expectations.0 in the card"
    (row,) = found.evidence
    assert (row["item_id"], row["brand"], row["event_time"]) == ("i2", "Its 2nd", at(-10))
    assert reason(decision, "items brand: values to match regex (2)").held
    unread = reason(decision, "items brand: values to match regex (3)")
    assert (unread.held, unread.level) == (False, "warn") and "invalid perl operator" in unread.message
    early = reason(decision, "interactions event_time: values to be between")
    assert early.found == pytest.approx(4 / 24, abs=1e-6) and {row["event_time"] for row in early.evidence} < {
        row["event_time"] for row in SHOPPING
    }
    mean = reason(decision, "varying price: mean to be between")
    assert (mean.found, mean.allowed) == (pytest.approx(2.75), "max_value 1")
    assert {each.check for each in decision.blocking} == {found.check, early.check, mean.check}, (
        "and nothing else falls"
    )
    docs = "".join(path.read_text() for path in (tmp_path / "validation" / "data_docs").rglob("*.html"))
    assert "Its 2nd" in docs and "Brands are one word" in docs and "values must match this regular expression" in docs


def test_a_share_that_the_card_allows_is_one_that_great_expectations_allows():
    for thousandths in range(1001):
        limit = thousandths / 1000
        for rows in (1, 3, 7, 10, 20, 100, 125, 1000):
            for otherwise in {0, rows, rows * thousandths // 1000, min(rows, rows * thousandths // 1000 + 1)}:
                allowed = Fraction(otherwise, rows) <= Fraction(thousandths, 1000)
                # As `_mostly_success` of Great Expectations has it.
                assert ((float(rows) - float(otherwise)) / float(rows) >= _rest(limit)) == allowed
