"""Clean trading days raise no block, night by night; `make bench-gate` does sixty of each shop."""

import pytest

from benchmarks.gate import trading_days
from benchmarks.gate.days import sweep
from runtime.errors import InputError


@pytest.mark.parametrize("shop", [trading_days.marketplace, trading_days.online_retail])
def test_clean_nights_are_not_blocked(shop):
    try:
        found = sweep(shop(), nights=8)
    except InputError as error:
        pytest.skip(str(error))
    assert found.nights == 8 and found.blocked == {}
