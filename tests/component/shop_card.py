"""The card of the made-up shop (tests/unit/heterrec/shop.py) on which steps are tested that read no source."""

from feature_repo.card import DatasetCard
from tests.unit.heterrec.shop import KINDS, VARYING

CARD = DatasetCard.model_validate(
    {
        "name": "shop",
        "description": "tiny",
        "source": {"adapter": "files", "interactions": "x", "items": "y"},
        "features": [
            {"name": name, "kind": kind, "varies_in_time": name in VARYING}
            | ({"dimension": 6} if kind == "embedding" else {})
            for name, kind in KINDS.items()
        ],
        "split": {"by": "time"},
        "repeats": True,
    }
)
