"""What each kind of feature is where it is stored."""

from feature_repo.card import Kind

SQL_TYPE: dict[Kind, str] = {
    "categorical": "VARCHAR",
    "multi_categorical": "VARCHAR[]",
    "numeric": "DOUBLE",
    "text": "VARCHAR",
    "embedding": "FLOAT[]",
}
