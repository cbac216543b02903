import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

import heterrec.data.encoder
from heterrec.data.encoder import (
    MAX_WORDS,
    MISSING,
    UNKNOWN,
    FeatureEncoder,
)

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
    source = Path(heterrec.data.encoder.__file__).read_text()
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


def tagged(tags: list[list[str]], kind: str = "multi_categorical") -> FeatureEncoder:
    column = [" ".join(cell) for cell in tags] if kind == "text" else tags
    features = [{"name": "tags", "kind": kind, "varies_in_time": False}]
    return FeatureEncoder.fit(features, {"tags": column}, [f"i{n}" for n in range(len(tags))], np.ones(len(tags), int))


@pytest.mark.parametrize("kind", ["multi_categorical", "text"])
def test_what_most_items_have_tells_none_apart(kind):
    encoder = tagged([["root", "x"], ["root", "x"], ["root", "y"], ["root", "y"], ["root"], ["z", "y"]], kind)
    (field,) = encoder.fields
    assert field.vocabulary == ("x", "y")
    cells = [["root", "x"], ["y", "root", "x"], ["root"], []]
    value, missing = encoder.encode({"tags": [" ".join(cell) for cell in cells] if kind == "text" else cells})["tags"]
    assert value.tolist() == [[2, 0], [3, 2], [UNKNOWN, 0], [MISSING, 0]]
    assert missing.tolist() == [False, False, False, True], "an item of which nothing more is known is not a bare one"


@pytest.mark.parametrize("kind", ["multi_categorical", "text"])
def test_an_item_keeps_its_first_known_values_and_it_is_said_how_many_it_loses(kind):
    many = [f"v{n:02d}" for n in range(MAX_WORDS + 6)]
    encoder = tagged([["once", "root", *many], ["root", *many], ["root"], ["root"], ["root"], ["root", "v00"]], kind)
    (field,) = encoder.fields
    assert field.cut == 2 * 6, "of those that are known, in the catalogue"
    cell = ["never", "root", *many]
    value, _ = encoder.encode({"tags": [" ".join(cell) if kind == "text" else cell]})["tags"]
    assert [field.vocabulary[index - 2] for index in value[0]] == many[:MAX_WORDS]
    assert FeatureEncoder.from_json(encoder.to_json()).fields == encoder.fields


def test_an_encoder_of_before_encodes_as_it_did():
    """Models that were trained without the two facts: unknown tags stay, and the first 24 of all count."""
    many = [f"v{n:02d}" for n in range(40)]
    encoder = tagged([["root", *many], ["root", *many], ["x"], ["x"], ["y"]])
    state = json.loads(encoder.to_json())
    for field in state["fields"]:
        del field["sifted"], field["cut"]
    before = FeatureEncoder.from_json(json.dumps(state))
    value, _ = before.encode({"tags": [["never", *many], ["never", "x"]]})["tags"]
    known = {name: index for index, name in enumerate(encoder.fields[0].vocabulary, start=2)}
    assert value[0].tolist() == [UNKNOWN, *(known[name] for name in many[: MAX_WORDS - 1])]
    assert value[1, :3].tolist() == [UNKNOWN, known["x"], 0]


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
