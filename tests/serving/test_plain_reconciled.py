"""The plain server made to match the rollout row, by the tests of test_reconciler.py that are not about keys."""

from collections.abc import Iterator

import pytest

from serving.plain.server import PlainServer
from tests.serving.test_reconciler import (  # noqa: F401
    arms,
    as_it_was,
    environment,
    quiet,
    test_a_killed_torchserve_is_not_ready_and_gets_its_versions_back,
    test_a_reconciler_starts_on_damaged_files_and_what_serves_goes_on,
    test_a_table_that_is_away_changes_nothing_not_even_for_a_reconciler_started_meanwhile,
    test_an_altered_archive_and_wrong_answers_are_refused_once_and_never_ready,
    test_an_emptied_table_beside_a_damaged_copy_takes_nothing_out,
    test_swapping_versions_under_load_fails_no_request,
    test_the_word_of_a_process_before_is_not_taken_once_an_answer_is_wrong,
    test_versions_are_ready_once_proven_and_what_is_named_no_longer_is_retired,
    test_what_serves_is_not_unloaded_for_a_damaged_copy_or_archive,
    test_without_an_answer_nothing_is_proven_and_nothing_is_taken_out,
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    """In place of a TorchServe that asks for keys."""
    with PlainServer(tmp_path_factory.mktemp("logs")) as running:
        yield running
