"""Who meets which arm: sticky, uniform, and drawn anew by each experiment."""

import duckdb
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from experiments.assignment import PLACE_SQL, place, variant

WEIGHTS = st.floats(0, 1)


@given(st.text(), st.text(), WEIGHTS, WEIGHTS)
def test_raising_the_weight_never_moves_a_user_back(salt: str, user: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    if variant(salt, user, low) == "challenger":
        assert variant(salt, user, high) == "challenger"


@given(st.text(), st.text())
def test_nobody_meets_the_challenger_at_0_and_everybody_at_1(salt: str, user: str) -> None:
    assert variant(salt, user, 0.0) == "champion" and variant(salt, user, 1.0) == "challenger"


def test_places_are_uniform_and_a_new_salt_draws_them_anew() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    first, second = (np.array([place(salt, user) for user in users]) for salt in ("a", "b"))
    for places in (first, second):
        assert chisquare(np.histogram(places, 50, (0, 1))[0]).pvalue > 1e-4
    assert chisquare(np.histogram2d(first, second, 10, ((0, 1), (0, 1)))[0].ravel()).pvalue > 1e-4


def test_a_known_user_stands_where_it_stood_when_this_was_written() -> None:
    """A changed hash would silently mix the arms of every running experiment."""
    assert place("salt", "u1") == 0.5382267192698043


def test_duckdb_draws_the_same_place() -> None:
    users = ["u1", "ünïcode", "", "a'b", "x" * 300]
    sql = duckdb.sql(
        f"SELECT {PLACE_SQL} FROM (SELECT unnest($users) AS user_id, 'salt' AS salt)", params={"users": users}
    )
    assert [row[0] for row in sql.fetchall()] == [place("salt", user) for user in users]
