"""A shop's own expectations of its data, in the words of Great Expectations: `expectations` of the card."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from feature_repo.kinds import Storage
from feature_repo.limits import Strict

Table = Literal["interactions", "items", "users", "varying", "derived"]

_WHERE = "row_condition condition_parser"
_ROWS = f"mostly {_WHERE}"
_SEVERAL = f"{_ROWS} ignore_row_if"
_BETWEEN = "min_value max_value strict_min strict_max"
_FIGURE = f"{_BETWEEN} {_WHERE}"
ARGUMENTS: dict[str, tuple[str, str]] = {
    "expect_column_distinct_values_to_be_in_set": ("column value_set", _WHERE),
    "expect_column_distinct_values_to_contain_set": ("column value_set", _WHERE),
    "expect_column_distinct_values_to_equal_set": ("column value_set", _WHERE),
    "expect_column_max_to_be_between": ("column", _FIGURE),
    "expect_column_mean_to_be_between": ("column", _FIGURE),
    "expect_column_median_to_be_between": ("column", _FIGURE),
    "expect_column_min_to_be_between": ("column", _FIGURE),
    "expect_column_most_common_value_to_be_in_set": ("column value_set", f"ties_okay {_WHERE}"),
    "expect_column_pair_values_a_to_be_greater_than_b": ("column_A column_B", f"or_equal {_SEVERAL}"),
    "expect_column_pair_values_to_be_equal": ("column_A column_B", _SEVERAL),
    "expect_column_pair_values_to_be_in_set": ("column_A column_B value_pairs_set", _SEVERAL),
    "expect_column_proportion_of_non_null_values_to_be_between": ("column", _FIGURE),
    "expect_column_proportion_of_unique_values_to_be_between": ("column", _FIGURE),
    "expect_column_stdev_to_be_between": ("column", _FIGURE),
    "expect_column_sum_to_be_between": ("column", _FIGURE),
    "expect_column_unique_value_count_to_be_between": ("column", _FIGURE),
    "expect_column_value_lengths_to_be_between": ("column", f"{_BETWEEN} {_ROWS}"),
    "expect_column_value_lengths_to_equal": ("column value", _ROWS),
    "expect_column_value_z_scores_to_be_less_than": ("column threshold double_sided", _ROWS),
    "expect_column_values_to_be_between": ("column", f"{_BETWEEN} {_ROWS}"),
    "expect_column_values_to_be_in_set": ("column value_set", _ROWS),
    "expect_column_values_to_be_null": ("column", _ROWS),
    "expect_column_values_to_be_unique": ("column", _ROWS),
    "expect_column_values_to_match_like_pattern": ("column like_pattern", f"escape {_ROWS}"),
    "expect_column_values_to_match_like_pattern_list": ("column like_pattern_list", f"match_on escape {_ROWS}"),
    "expect_column_values_to_match_regex": ("column regex", _ROWS),
    "expect_column_values_to_match_regex_list": ("column regex_list", f"match_on {_ROWS}"),
    "expect_column_values_to_not_be_in_set": ("column value_set", _ROWS),
    "expect_column_values_to_not_be_null": ("column", _ROWS),
    "expect_column_values_to_not_match_like_pattern": ("column like_pattern", f"escape {_ROWS}"),
    "expect_column_values_to_not_match_like_pattern_list": ("column like_pattern_list", f"escape {_ROWS}"),
    "expect_column_values_to_not_match_regex": ("column regex", _ROWS),
    "expect_column_values_to_not_match_regex_list": ("column regex_list", _ROWS),
    "expect_compound_columns_to_be_unique": ("column_list", _SEVERAL),
    "expect_multicolumn_sum_to_equal": ("column_list sum_total", _SEVERAL),
    "expect_multicolumn_values_to_be_equal": ("column_list", _SEVERAL),
    "expect_select_column_values_to_be_unique_within_record": ("column_list", _SEVERAL),
    "expect_table_row_count_to_be_between": ("", _FIGURE),
    "expect_table_row_count_to_equal": ("value", _WHERE),
    "unexpected_rows_expectation": ("unexpected_rows_query", ""),
}
"""Of each type that can be asked here the kwargs that it needs, and those that it may have. A test holds this against
Great Expectations, and each type against its own pandas engine. Not here is what its SQL engine cannot answer (order,
JSON, formats of times) and what Great Expectations 1.24 cannot store its own answer of (quantiles)."""

_KEYS = {"items": "item_id", "varying": "item_id", "derived": "item_id", "users": "user_id"}
_OF_EVENTS = ["event_id", "user_id", "item_id", "event_time", "created_time", "position", "basket", "event_type"]
BESIDE: dict[Storage, tuple[str, ...]] = {
    Storage.NUMBER: ("finite",),
    Storage.TEXTS: ("size",),
    Storage.VECTOR: ("size", "length", "finite", "zero"),
}
"""By storage, what is known of a value in columns beside it: `picture length` of an embedding `picture`."""


class Expectation(Strict):
    """One expectation of Great Expectations, as its own JSON has it, of a table as the gate sees it: a row an event, an
    item, a user, a change; nothing later than the run's moment; what is empty is null."""

    table: Table
    """Whose rows: interactions, items, users, varying (changes of features that vary) or derived (computed ones)."""
    type: str
    """As Great Expectations writes it, e.g. expect_column_values_to_match_regex."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """As Great Expectations writes them, e.g. {column: brand, regex: "^[A-Z]", mostly: 0.99}."""
    severity: Literal["block", "warn"] = "block"
    """What becomes of a run where it does not hold."""
    notes: str = ""
    """Why it should hold, in your words: shown on the gate's page and in the Data Docs."""

    @model_validator(mode="after")
    def _asked_rightly(self) -> "Expectation":
        if self.type not in ARGUMENTS:
            close = get_close_matches(self.type, ARGUMENTS, n=1)
            hint = f"expected {close[0]}" if close else f"expected one of {', '.join(ARGUMENTS)}"
            raise ValueError(f"type: found {self.type!r}, {hint}")
        needed, optional = (names.split() for names in ARGUMENTS[self.type])
        if unknown := sorted(set(self.kwargs) - {*needed, *optional}):
            raise ValueError(
                f"kwargs of {self.type}: found {unknown[0]!r}, expected some of {', '.join([*needed, *optional])}"
            )
        if lacking := [name for name in needed if name not in self.kwargs]:
            raise ValueError(f"kwargs of {self.type}: {lacking[0]!r} is missing")
        return self

    @property
    def asks_rows(self) -> bool:
        """Whether it asks something of each row, so that a share of them may differ (`mostly`)."""
        return "mostly" in ARGUMENTS[self.type][1].split()

    @property
    def columns(self) -> list[str]:
        """The columns that it asks about."""
        single = [self.kwargs[name] for name in ("column", "column_A", "column_B") if name in self.kwargs]
        several = self.kwargs.get("column_list", [])
        return [str(name) for name in (*single, *(several if isinstance(several, list) else [several]))]

    @property
    def name(self) -> str:
        """As the gate calls it."""
        asked = self.type.removeprefix("expect_").removeprefix("column_").replace("_", " ")
        return f"{self.table} {' and '.join(self.columns)}: {asked}" if self.columns else f"{self.table}: {asked}"


def columns_of(table: Table, features: Mapping[str, Storage]) -> list[str]:
    """What `table` has columns of; `features` are its features' names and how they are stored."""
    keys = _OF_EVENTS if table == "interactions" else [_KEYS[table], "event_time", "created_time"]
    return [*keys, *(column for name, how in features.items() for column in beside(name, how))]


def beside(name: str, storage: Storage) -> list[str]:
    """A feature's own column, and those beside it."""
    return [name, *(f"{name} {what}" for what in BESIDE.get(storage, ()))]


def require_columns(expectations: Sequence[Expectation], tables: Mapping[Table, Mapping[str, Storage]]) -> None:
    """Raise `ValueError` where one asks for a table or a column that the card has not; `tables` as in `columns_of`."""
    for place, each in enumerate(expectations):
        if each.table not in tables:
            raise ValueError(f"expectations.{place}.table: found {each.table!r}, expected one of {', '.join(tables)}")
        known = columns_of(each.table, tables[each.table])
        if unknown := [name for name in each.columns if name not in known]:
            raise ValueError(
                f"expectations.{place}.kwargs: found column {unknown[0]!r}, expected one of {', '.join(known)}"
            )
