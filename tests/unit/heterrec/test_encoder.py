import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest

import heterrec.encoder
from heterrec.encoder import MISSING, UNKNOWN, FeatureEncoder

FEATURES = [
    {"name": "brand", "kind": "categorical", "varies_in_time": False},
    {"name": "tags", "kind": "multi_categorical", "varies_in_time": False},
    {"name": "title", "kind": "text", "varies_in_time": False},
    {"name": "image", "kind": "embedding", "varies_in_time": False},
    {"name": "price", "kind": "numeric", "varies_in_time": True},
    {"name": "stock", "kind": "categorical", "varies_in_time": True},
]
COLUMNS = {
    "brand": ["a", "a", "b", "b", "once", None],
    "tags": [["x", "y"], ["x"], ["y"], [], None, ["never", "x"]],
    "title": ["Blue kettle", "blue Pot", "red kettle", "", None, "kettle!"],
    "image": [[1.0, 2.0], [3.0, 4.0], [5.0, 9.0], None, [0.0, 0.0], [1.0, 1.0]],
    "price": [1.0, 2.0, 4.0, 8.0, None, math.nan],
    "stock": ["low", "low", "high", "high", "high", None],
}
IDS = [f"i{n}" for n in range(6)]


@pytest.fixture
def small() -> FeatureEncoder:
    return FeatureEncoder.fit(FEATURES, COLUMNS, IDS, np.array([5, 2, 1, 0, 9, 2]))


def test_the_file_stands_alone(tmp_path: Path, small: FeatureEncoder):
    """It is copied into the archive: loaded from there it encodes the same."""
    source = Path(heterrec.encoder.__file__).read_text()
    assert "heterrec" not in "".join(line for line in source.splitlines() if "import" in line)
    (tmp_path / "copied.py").write_text(source)
    spec = importlib.util.spec_from_file_location("copied", tmp_path / "copied.py")
    copied = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["copied"] = copied
    spec.loader.exec_module(copied)
    other = copied.FeatureEncoder.from_json(small.to_json())
    np.testing.assert_array_equal(other.encode_varying(COLUMNS)[0], small.encode_varying(COLUMNS)[0])


def test_json_round_trip_is_exact(small: FeatureEncoder):
    again = FeatureEncoder.from_json(small.to_json())
    assert again.to_json() == small.to_json()
    before, after = small.encode(COLUMNS), again.encode(COLUMNS)
    for name in before:
        np.testing.assert_array_equal(before[name][0], after[name][0])
        np.testing.assert_array_equal(before[name][1], after[name][1])


def test_rare_items_have_the_null_id(small: FeatureEncoder):
    assert small.encode_ids([*IDS, "new"]).tolist() == [1, 2, 0, 0, 3, 4, 0]


def test_unknown_is_not_missing(small: FeatureEncoder):
    value, missing = small.encode({**COLUMNS, "brand": ["a", "b", "once", "never", None, ""]})["brand"]
    assert value[:, 0].tolist() == [2, 3, UNKNOWN, UNKNOWN, MISSING, MISSING]
    assert missing.tolist() == [False] * 4 + [True] * 2


def test_words_are_known_by_any_case_and_order(small: FeatureEncoder):
    value, missing = small.encode({**COLUMNS, "title": ["BLUE new", "kettle blue", "new", None, "", "Blue"]})["title"]
    assert set(value[0]) - {0} == set(value[5]) - {0} != {UNKNOWN}
    assert set(value[2]) - {0} == {UNKNOWN}
    assert missing.tolist() == [False, False, False, True, True, False]


def test_numbers_are_standardised_and_clipped(small: FeatureEncoder):
    value, missing = small.encode_varying({"price": [1.0, 8.0, None, math.inf, 1e300, -3.0], "stock": ["low"] * 6})
    assert missing[:, 0].tolist() == [False, False, True, True, False, False]
    assert value[2, 0] == 0 and value[0, 0] < 0 < value[1, 0]
    assert np.abs(value[:, 0]).max() <= 5
    assert value.dtype == np.float32 and value.shape == (6, 2)
    price = small.varying[0]
    edges = np.searchsorted(np.float32(price.edges), small.encode(COLUMNS)["price"][0][:4])
    assert len(set(edges)) == 4, "each of four prices has a bucket of its own"


def test_a_varying_feature_that_the_caller_lacks_is_missing(small: FeatureEncoder):
    value, missing = small.encode_varying({"stock": ["high", "unheard"]}, 2)
    assert value[:, 1].tolist() == [2, UNKNOWN] and missing.tolist() == [[True, False], [True, False]]
    assert small.encode_varying({}, 3)[1].all()


def test_embeddings_are_centred_and_of_one_length(small: FeatureEncoder):
    value, missing = small.encode(COLUMNS)["image"]
    np.testing.assert_allclose(value[~missing].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose((value[~missing] ** 2).mean(), 1, rtol=1e-6)
    with pytest.raises(ValueError, match=r"image.*3 numbers, expected 2"):
        small.encode({**COLUMNS, "image": [[1.0, 2.0, 3.0]] * 6})


def test_all_features_missing_is_defined():
    nothing = {name: [None] * 6 for name in COLUMNS}
    encoder = FeatureEncoder.fit(FEATURES, nothing, IDS, np.ones(6, dtype=np.int64))
    assert all(missing.all() for _, missing in encoder.encode(nothing).values())
    assert encoder.encode_varying(nothing)[1].all()


def test_clear_errors():
    with pytest.raises(ValueError, match=r"'brand'.*no such column"):
        FeatureEncoder.fit(FEATURES, {}, [], np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="kind 'sound' is unknown"):
        FeatureEncoder.fit([{**FEATURES[0], "kind": "sound"}], COLUMNS, IDS, np.ones(6, dtype=np.int64))
    with pytest.raises(ValueError, match="version 9, expected 1"):
        FeatureEncoder.from_json('{"version": 9}')
