from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.train import step
from heterrec.data.sequences import NOW, Queries, Sequences
from heterrec.inference.answers import Answers, item_matrix
from heterrec.loss.batches import encode_events
from heterrec.model.network import PackedHistories
from heterrec.recipes import TrainConfig
from heterrec.training.export import export_program, load_model
from tests.unit.heterrec.small import SMALL, changed

CONFIG = TrainConfig(model=replace(SMALL, max_history=8), epochs=2, batch_events=64)


@pytest.fixture(scope="module")
def trained(shop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model")
    report = step.run(config=CONFIG, sequences=shop_root, model=root, scratch=tmp_path_factory.mktemp("scratch"))
    assert report["epochs"] == 2
    return root


def test_the_model_folder_has_what_the_contract_says(trained: Path):
    names = {path.name for path in trained.iterdir()}
    made = {"recipe.json", "config.json", "weights.pt", "encoder.json", "curve.json", "report.json"}
    assert names == made | {"memory.npz", "memory_items.json"}


def padded(histories: PackedHistories, longest: int) -> tuple[torch.Tensor, ...]:
    """The input of the program, as docs/contracts.md has it: written down list by list."""
    lists = [torch.split(part, histories.layout.length_B.tolist()) for part in histories[:4]]
    fill = [0, 0, 0.0, True]
    return (
        *(
            torch.stack(
                [torch.cat([x, torch.full((longest - len(x), *x.shape[1:]), value, dtype=x.dtype)]) for x in each]
            )
            for each, value in zip(lists, fill, strict=True)
        ),
        histories.layout.length_B,
    )


def test_the_program_equals_the_model_for_any_batch_and_time(trained: Path, shop: Sequences):
    loaded = load_model(trained)
    answers = Answers(loaded, shop.catalogue, NOW)
    program = export_program(answers).module()
    events = encode_events(shop, loaded.encoder)
    for users, longest in ((1, 1), (1, 8), (5, 3), (30, 8)):
        length = np.minimum(np.diff(shop.offsets)[:users], longest)
        start = shop.offsets[:users]
        numbers = np.arange(users)
        queries = Queries(user=numbers, start=start, stop=start + length, last=start + length + 1)
        expected = answers.users(shop, queries)
        found = program(*padded(events.histories(start, length), longest=int(length.max()))).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(found @ answers.items.T, expected @ answers.items.T, atol=1e-4)


def test_a_newer_catalogue_is_ranked_with_the_same_weights(trained: Path, shop: Sequences):
    """A new item has the null ID; two new items with other features are told apart."""
    model, encoder = load_model(trained)[:2]
    old = shop.catalogue
    ids = [*old.item_ids, "new0", "new5"]
    newer = changed(
        old,
        lambda values: [*values, values[0], values[5]],
        item_ids=ids,
        available_at=np.zeros(len(ids), dtype=np.int64),
    )
    matrix = item_matrix(model, encoder, newer, NOW)
    np.testing.assert_allclose(matrix[:-2], item_matrix(model, encoder, old, NOW), atol=1e-6)
    assert not np.allclose(matrix[-1], matrix[-2]) and not np.allclose(matrix[-2], matrix[0])


def test_a_folder_that_is_not_a_model_is_refused(trained: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"config.json: no such file"):
        load_model(tmp_path)
    for path in trained.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = torch.load(tmp_path / "weights.pt", weights_only=True)
    torch.save({name: value[:1] for name, value in state.items()}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="does not fit"):
        load_model(tmp_path)
