"""What a comparison will be able to tell is what simulated comparisons do tell."""

from pathlib import Path

import numpy as np
import pytest

from components.features.power import (
    GAIN,
    SPREAD,
    goes_on,
    of,
    power,
)
from feature_repo.card import DatasetCard
from heterrec.data.sequences import read_sequences
from heterrec.evaluation.comparison import paired_bootstrap
from tests.unit.heterrec.shop import write_shop


@pytest.mark.parametrize("queries", [42, 200])
def test_the_power_is_how_often_such_a_gain_is_found(queries: int) -> None:
    rng = np.random.default_rng(0)
    found = power(queries)
    drawn = [rng.normal(GAIN, SPREAD, queries) for _ in range(150)]
    ahead = np.mean([paired_bootstrap(draw, np.zeros(queries), resamples=400).better for draw in drawn])
    assert ahead == pytest.approx(found.power, abs=0.1)
    assert power(found.needed).power == pytest.approx(0.8, abs=0.01)
    assert power(queries).detectable == pytest.approx(GAIN, rel=0.02) or queries != found.needed


def card(**changes: object) -> DatasetCard:
    asked = {"name": "x", "description": "x", "source": {"adapter": "marketplace"}, "features": []}
    return DatasetCard.model_validate({**asked, "split": {"by": "time"}, **changes})


def test_what_is_too_little_is_said_with_what_to_change_and_the_card_chooses(tmp_path: Path) -> None:
    sequences = write_shop(tmp_path, users=42)
    found = of(sequences, card())
    assert found.queries == len(read_sequences(sequences).queries("test")) and not found.enough
    assert "raise split.test_days" in found.sentence and f"{found.needed:,} would do" in found.sentence
    required = card(release={"power": "require"})
    assert goes_on(found, card()) and not goes_on(found, required)
    assert goes_on(power(found.needed + 1), required) and "raise" not in power(found.needed + 1).sentence
    assert power(0).power == 0 and power(0).detectable > 0


def test_where_each_shopper_has_one_basket_held_out_more_days_are_no_advice(tmp_path: Path) -> None:
    found = of(write_shop(tmp_path, users=42), card(split={"by": "order"}))
    assert "take more users" in found.sentence and "test_days" not in found.sentence
