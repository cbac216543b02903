"""The JSON Schema of a card, for editors: `python -m feature_repo.card_schema` writes it anew after a change."""

import json
from pathlib import Path

from feature_repo.card import DatasetCard

PATH = Path(__file__).with_name("card.schema.json")


def schema() -> str:
    """The file's text, made from the models of the card; the docstring of a field is what an editor shows."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **DatasetCard.model_json_schema()}
    return json.dumps(found, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(schema())
