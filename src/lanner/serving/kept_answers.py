"""Answers kept for requests that come again before anything has changed, with a bound on their number."""

from collections import OrderedDict

from lanner.serving.messages import RecommendAnswer

Key = tuple[int, int, bytes]
"""Versions of the catalogue and of the user's state, and the request as JSON."""
_BYTES_AN_ANSWER, _BYTES_AN_ITEM, _BYTES_A_REASON = 700, 170, 130
"""Roughly, beside texts of its own: ids and titles are the catalogue's. A metric needs no more."""


class KeptAnswers:
    """Those asked for lately. Used from one thread, the event loop's."""

    def __init__(self, most: int) -> None:
        """most: answers held; 0: none."""
        self._most = most
        self._kept: OrderedDict[Key, RecommendAnswer] = OrderedDict()
        self.held_bytes = 0
        """Bytes of the answers held."""

    def __len__(self) -> int:
        """Answers held."""
        return len(self._kept)

    def get(self, key: Key) -> RecommendAnswer | None:
        """The answer to a request, if it is held."""
        answer = self._kept.get(key)
        if answer is not None:
            self._kept.move_to_end(key)
        return answer

    def keep(self, key: Key, answer: RecommendAnswer) -> None:
        """Hold an answer; what was asked of an older catalogue goes, for nobody will ask for it again."""
        if not self._most:
            return
        if self._kept and next(iter(self._kept))[0] != key[0]:
            self.clear()
        self._let_go(key)
        self._kept[key] = answer
        self.held_bytes += _bytes_of(key, answer)
        if len(self._kept) > self._most:
            self._let_go(next(iter(self._kept)))

    def clear(self) -> None:
        """Hold none."""
        self._kept.clear()
        self.held_bytes = 0

    def _let_go(self, key: Key) -> None:
        answer = self._kept.pop(key, None)
        self.held_bytes -= 0 if answer is None else _bytes_of(key, answer)


def _bytes_of(key: Key, answer: RecommendAnswer) -> int:
    reasons = sum(len(item.reasons) * _BYTES_A_REASON + len(item.because) for item in answer.items)
    return _BYTES_AN_ANSWER + len(key[2]) + len(answer.items) * _BYTES_AN_ITEM + reasons
