import json

import pytest

from benchmarks.model.readme import README, RESULTS, written


def test_the_readme_shows_the_results_that_are_kept():
    readme = README.read_text()
    assert written(readme, json.loads(RESULTS.read_text())) == readme, "write it anew: `benchmarks.model.readme`"


def test_a_readme_without_the_marks_is_told():
    with pytest.raises(ValueError, match="put the two marks where the table belongs"):
        written("# no marks", {"rows": []})
