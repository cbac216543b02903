"""What a card may ask of the data gate."""

import re

import pytest
from pydantic import ValidationError

from feature_repo.card import CardError, DatasetCard, load_card

CARD = load_card("online_retail").model_dump()


def test_tolerances_that_are_left_out_have_their_defaults():
    card = DatasetCard.model_validate({**CARD, "tolerances": {"volume": {"warn": 2, "block": 9}}})
    assert (card.tolerances.volume.warn, card.tolerances.volume.block) == (2, 9)
    assert card.tolerances.lost == DatasetCard.model_validate(CARD).tolerances.lost
    assert DatasetCard.model_validate_json(card.model_dump_json()) == card


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tolerances": {"volume": {"warn": 3, "block": 2}}}, "block must not be below warn"),
        ({"tolerances": {"volum": {"warn": 2, "block": 3}}}, "tolerances.volum"),
        ({"limits": {"max_catalogue_age_days": 3}}, "needs columns.item_available_at"),
        (
            {"features": [{"name": "title", "kind": "text", "max_drift": 2}]},
            "feature 'title': block_drift must not be below max_drift",
        ),
        *(
            ({"features": [{"name": "released", "date": True, **said}]}, "feature 'released': a date is numeric")
            for said in (
                {"kind": "text", "token": False},
                {"kind": "numeric"},
                {"kind": "numeric", "derive": {"by": "age"}, "token": False},
            )
        ),
    ],
)
def test_a_card_that_cannot_be_meant_is_refused(change, told):
    with pytest.raises(ValidationError, match=told):
        DatasetCard.model_validate({**CARD, **change})


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "card: expected fields, as .*example.yaml has them"),
        ("name: My Shop", "name: expected lower case letters .* [(]found 'My Shop'[)]"),
        ("featurs: []", "featurs: no such field .*example.yaml has them all"),
        ("name: x", "description: is missing$"),
        (
            "{name: x, description: y, source: {adapter: files}, features: [], split: {by: time}}",
            "source: the files adapter needs `interactions`, and `items` where there is such a table$",
        ),
    ],
)
def test_a_faulty_card_is_told_in_the_words_of_the_card(tmp_path, written, told):
    (path := tmp_path / "my_shop.yaml").write_text(written)
    with pytest.raises(CardError) as error:
        load_card(str(path))
    assert any(re.search(told, line) for line in str(error.value).splitlines()), error.value
