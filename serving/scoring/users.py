"""What the program makes of histories: the vector of each shopper.

Letters: B requests, T events of a history, N varying features, D width.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from serving.scoring.program import Program
from serving.scoring.requests import History, ScoringRequest

_PADDING = 100
"""Events of padding that cost about as much as another call of the program."""


class UserTower:
    """Of one archive: its program, and its encoder."""

    def __init__(self, program: Program, encoder: Any) -> None:
        self._program, self._encoder = program, encoder

    def of(self, requests: Sequence[ScoringRequest]) -> torch.Tensor:
        """(B, D), histories of like lengths going through the model together: what is padded is computed too."""
        lengths = [len(request.history.rows) for request in requests]
        groups: list[list[int]] = []
        padded = _PADDING
        for b in sorted(range(len(requests)), key=lambda b: -lengths[b]):
            padded += lengths[groups[-1][0]] - lengths[b] if groups else 0
            if padded >= _PADDING:
                groups.append([])
                padded = 0
            groups[-1].append(b)
        users = [self._program(*self.inputs([requests[b] for b in group])) for group in groups]
        place = torch.tensor([b for group in groups for b in group]).argsort()
        return torch.cat(users)[place]

    def without_each(self, request: ScoringRequest) -> torch.Tensor:
        """(T, D) the user, were each event of the history in turn left out."""
        columns, events = request.history, len(request.history.rows)
        left = [History(*(column[:t] + column[t + 1 :] for column in columns)) for t in range(events)]  # type: ignore[arg-type]
        return self.of([request._replace(history=history) for history in left])

    def inputs(self, requests: Sequence[ScoringRequest]) -> tuple[torch.Tensor, ...]:
        """What the program takes, right-padded: item, time, varying_value, varying_missing, length, and who asks."""
        histories = [request.history for request in requests]
        length_B = np.array([len(history.rows) for history in histories], np.int64)
        b, t, n = len(requests), int(length_B.max()), per_event(self._encoder)
        inside_BT = np.arange(t) < length_B[:, None]
        item_BT = np.zeros((b, t), np.int64)
        item_BT[inside_BT] = np.fromiter(chain.from_iterable(h.rows for h in histories), np.int64) + 1
        # Padding repeats the latest time, as in training.
        time_BT = np.repeat(np.array([history.times[-1] for history in histories], np.int64)[:, None], t, axis=1)
        time_BT[inside_BT] = np.fromiter(chain.from_iterable(h.times for h in histories), np.int64)
        value_BTN, missing_BTN = np.zeros((b, t, n), np.float32), np.ones((b, t, n), bool)
        if n:
            seen = [values for history in histories for values in history.features]
            columns = {f.name: [values.get(f.name) for values in seen] for f in self._encoder.varying}
            if types := _event_types(self._encoder):
                kinds = [kind for history in histories for kind in history.kinds]
                columns["event_type"] = [types[kind - 1].name if kind else None for kind in kinds]
            value_BTN[inside_BT], missing_BTN[inside_BT] = self._encoder.encode_varying(columns, len(seen))
        arrays = [item_BT, time_BT, value_BTN, missing_BTN, length_B]
        if getattr(self._encoder, "asking", ()):
            arrays += encoded_askers(self._encoder, [request.asked for request in requests])
        return tuple(torch.from_numpy(array) for array in arrays)


def _event_types(encoder: Any) -> tuple[Any, ...]:
    """The kinds of events that the archive's encoder tells apart; those of before there were kinds have none."""
    return getattr(encoder, "event_types", ())


def encoded_askers(encoder: Any, askers: Sequence[Mapping[str, Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Rows and weights of who asks; without a column of an archive that does not know."""
    fields = getattr(encoder, "asking", ())
    if not fields:
        return np.zeros((len(askers), 0), np.int64), np.zeros((len(askers), 0), np.float32)
    columns = {field.name: [asker.get(field.name) for asker in askers] for field in fields}
    rows, weights = encoder.encode_asking(columns, len(askers))
    return rows, weights


def per_event(encoder: Any) -> int:
    """Values of an event beside its item and time."""
    return len(encoder.varying) + bool(_event_types(encoder))
