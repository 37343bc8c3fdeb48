"""What a server and its engine processes say to each other arrives as it was said, however the socket cuts it."""

import msgspec
import numpy as np
import pytest

from lanner.models.request_form import ItemRows
from lanner.serving.beside.messages import (
    Add,
    Ask,
    Changed,
    Failed,
    Frames,
    add_of,
    answered_of,
    answers_of,
    ask_of,
    framed,
    histories_of,
    read_reply,
    read_told,
    rows_of,
)
from lanner.serving.engine import Answer

RANDOM = np.random.default_rng(0)


def heard(message):
    (content,) = Frames().take(framed(message))
    return content


@pytest.mark.parametrize("step", [1, 3, 7, 10_000])
def test_messages_arrive_whole_however_they_are_cut(step):
    sent = [Failed("a"), Changed(), Failed("b" * 5_000)]
    wire, frames = b"".join(framed(one) for one in sent), Frames()
    found = [content for start in range(0, len(wire), step) for content in frames.take(wire[start : start + step])]
    assert [read_reply(one) for one in found] == sent


def test_questions_and_answers_arrive_as_they_were():
    histories = [np.array([5, 1, 5]), np.empty(0, np.int64), np.arange(60)]
    asked = read_told(heard(ask_of("full", histories, [3, 1, 9], [True, False, True])))
    assert isinstance(asked, Ask)
    assert (asked.variant, asked.ks, asked.exclude_seen) == ("full", [3, 1, 9], [True, False, True])
    for got, sent in zip(histories_of(asked), histories, strict=True):
        np.testing.assert_array_equal(got, sent)
    answers = [Answer(np.array([2, 9]), np.array([0.5, -1], np.float32)), Answer(np.empty(0, np.int64), np.empty(0))]
    for got, sent in zip(answers_of(read_reply(heard(answered_of(answers)))), answers, strict=True):
        np.testing.assert_array_equal(got.items, sent.items)
        np.testing.assert_array_equal(got.scores, sent.scores)


@pytest.mark.parametrize("has_head", [True, False])
def test_new_items_arrive_as_they_were(has_head):
    draw = lambda *shape: RANDOM.normal(size=shape).astype(np.float32)
    rows = ItemRows(draw(2, 4), draw(2, 3), draw(2), draw(2, 5) if has_head else None)
    told = read_told(heard(add_of(rows)))
    assert isinstance(told, Add)
    got = rows_of(told)
    for name in ("source_ND", "target_ND", "bias_N"):
        np.testing.assert_array_equal(getattr(got, name), getattr(rows, name))
    assert (got.half_NH is not None) == has_head


def test_what_is_no_message_is_not_taken_for_one():
    with pytest.raises(msgspec.DecodeError):
        read_told(b"\x93\xa3Ask\x01")
