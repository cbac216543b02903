import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from heterrec.data.sequences import Sequences, read_sequences
from tests.unit.heterrec.shop import write_shop


def test_events_are_by_user_in_order_of_baskets(baskets: Sequences):
    for user in range(len(baskets.user_ids)):
        mine = slice(baskets.offsets[user], baskets.offsets[user + 1])
        assert (np.diff(baskets.basket[mine]) >= 0).all() and (np.diff(baskets.time[mine]) >= 0).all()
    assert baskets.offsets[-1] == len(baskets.row) == len(baskets.varying["price"])


def test_a_query_asks_for_the_first_basket_of_its_split(baskets: Sequences):
    queries = baskets.queries("test")
    for user, start, stop, last in zip(queries.user, queries.start, queries.stop, queries.last, strict=True):
        assert start == baskets.offsets[user] < stop < last
        assert len(set(baskets.basket[stop:last])) == 1 and (baskets.split[stop:last] == 2).all()
        assert baskets.basket[stop - 1] < baskets.basket[stop] and (baskets.split[start:stop] < 2).all()


def broken(root: Path, change) -> Path:
    """A shop whose events table `change` has altered."""
    write_shop(root, users=3)
    pq.write_table(change(pq.read_table(root / "events.parquet")), root / "events.parquet")
    return root


def test_what_is_wrong_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"features.json: no such file"):
        read_sequences(tmp_path)
    with pytest.raises(ValueError, match=r"events.parquet: columns \['basket'\] are missing"):
        read_sequences(broken(tmp_path / "a", lambda table: table.drop_columns(["basket"])))
    stranger = pa.array(["nobody"])

    def alien(table: pa.Table) -> pa.Table:
        items = pa.chunked_array([table["item_id"].slice(0, table.num_rows - 1).combine_chunks(), stranger])
        return table.set_column(table.schema.get_field_index("item_id"), "item_id", items)

    with pytest.raises(ValueError, match=r"item_id 'nobody', expected an item of catalogue.parquet"):
        read_sequences(broken(tmp_path / "b", alien))


def test_a_catalogue_without_items_is_refused(tmp_path: Path):
    write_shop(tmp_path, users=2)
    pq.write_table(pq.read_table(tmp_path / "catalogue.parquet").slice(0, 0), tmp_path / "catalogue.parquet")
    with pytest.raises(ValueError, match="has no items"):
        read_sequences(tmp_path)


def test_a_shop_without_features_is_read(tmp_path: Path):
    write_shop(tmp_path, users=3, features=False)
    assert json.loads((tmp_path / "features.json").read_text())["features"] == []
    assert read_sequences(tmp_path).varying == {}
