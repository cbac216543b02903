"""A file that is replaced is whole at every moment, whatever becomes of who writes it."""

from pathlib import Path

import pytest

from runtime.files import digest_file, replace_text, replacing


@pytest.mark.parametrize("before", [None, "what was there"])
@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_what_fails_leaves_the_file_of_before_and_nothing_beside_it(tmp_path: Path, before, fault) -> None:
    path = tmp_path / "told.json"
    if before is not None:
        path.write_text(before)
    with pytest.raises(fault), replacing(path) as partial:
        partial.write_text("a part of i")
        assert partial.suffix == path.suffix and partial.parent == path.parent, "on the same disk, by the same writer"
        assert (path.read_text() if path.exists() else None) == before, "while it is written"
        raise fault
    assert (path.read_text() if path.exists() else None) == before
    assert [each.name for each in tmp_path.iterdir()] == ([path.name] if before else [])


def test_what_ends_is_there_whole(tmp_path: Path) -> None:
    path = tmp_path / "told.txt"
    replace_text(path, "é\n")
    replace_text(path, "again: é\n")
    assert path.read_bytes() == "again: é\n".encode() and list(tmp_path.iterdir()) == [path]
    assert digest_file(path) == "60ab2a91623badb3d704988f739622640c22348b1986e026ea3029d1d590973d"
