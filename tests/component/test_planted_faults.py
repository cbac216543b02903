"""Every planted fault is caught where the list says, and the same night without it raises no block."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gate import trading_days
from runtime.errors import InputError
from tests.component.planted_faults import FAULTS, PAGE, page
from tests.reasons import assert_told

SHOPS = {"marketplace": trading_days.marketplace, "online_retail": trading_days.online_retail}


@pytest.fixture(scope="module", params=SHOPS)
def accepted(request, tmp_path_factory):
    """A shop whose last night but one was accepted, and the reference that it left."""
    try:
        shop = SHOPS[request.param]()
    except InputError as error:
        pytest.skip(str(error))
    days = trading_days.trading_days(shop)
    before = trading_days.night(shop, shop.until(days[-2]), days[-2], tmp_path_factory.mktemp("before") / "run", None)
    assert before.decision.passed
    return shop, days[-1], before.reference


def judge(accepted, folder: Path, planted=None, *, cut: bool = False):
    shop, day, reference = accepted
    tables = shop.until(day).copy()
    if planted is not None:
        planted.inject(tables, shop, np.random.default_rng(0))
    card = trading_days.write(shop, tables, folder)
    if cut:
        content = card.source.interactions.read_bytes()
        card.source.interactions.write_bytes(content[: len(content) // 2])
    return trading_days.judge(card, folder, shop.midnight(day), reference)


def test_the_night_without_a_fault_is_accepted(accepted, tmp_path):
    assert judge(accepted, tmp_path / "clean").decision.passed


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "_"))
def test_a_planted_fault_is_caught_where_the_list_says(accepted, fault, tmp_path):
    planted = getattr(fault, accepted[0].name)
    if planted is None:
        pytest.skip(f"{accepted[0].name} has no such column")
    cut = fault.name == "truncated file"
    if planted.outcome == "stops":
        with pytest.raises(InputError, match=planted.by):
            judge(accepted, tmp_path / "run", planted, cut=cut)
        return
    found = judge(accepted, tmp_path / "run", planted)
    assert_told(found.decision)
    level = {"blocks": "block", "warns": "warn"}[planted.outcome]
    assert found.unheld().get(planted.by) == level, found.unheld()
    assert found.decision.passed == (planted.outcome == "warns"), found.unheld()


def test_the_table_of_faults_is_the_list():
    assert len(FAULTS) >= 25
    assert PAGE.read_text() == page(), "write it anew: python -m tests.component.planted_faults"
