"""Isolating faulty requests, the messages to local workers, and query strings."""

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitreg.errors import BadRequest, CorruptPacket, ServiceError
from splitreg.serving import frames
from splitreg.serving.inference import InferenceRequest, run_isolated
from splitreg.serving.query import parse_query, parse_request_options
from splitreg.wire import AnswerFormat, protocol


def test_items_run_together_unless_one_is_faulty(capsys):
    calls = []

    def run(items):
        calls.append(list(items))
        if "corrupt" in items:
            raise CorruptPacket("damaged")
        if "bug" in items:
            raise KeyError("missing")
        return [item.upper() for item in items]

    assert list(run_isolated(run, ["a", "b"])) == [(["a", "b"], ["A", "B"])] and calls == [["a", "b"]]
    calls.clear()
    (a, corrupt, bug) = run_isolated(run, ["a", "corrupt", "bug"])
    assert calls == [["a", "corrupt", "bug"], ["a"], ["corrupt"], ["bug"]]
    assert a == (["a"], ["A"]) and isinstance(corrupt[1], CorruptPacket)
    assert isinstance(bug[1], ServiceError) and "KeyError" in str(bug[1])
    assert "KeyError: 'missing'" in capsys.readouterr().err  # the traceback, for the log of the worker


@given(st.lists(st.tuples(st.lists(st.binary(max_size=20), max_size=3), st.integers(0, 9)), max_size=4))
def test_batches_reach_a_worker_unchanged(jobs):
    requests = [
        InferenceRequest(images=images, answer_format=AnswerFormat(min_score=images / 10), packets=tuple(packets))
        for packets, images in jobs
    ]
    data = frames.write_batch("1234abcd", ("cls", "seg"), requests)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        table, blobs = frames.receive(theirs)
        ours.close()
        with pytest.raises(EOFError):
            frames.receive(theirs)
    assert (table["model"], table["heads"]) == ("1234abcd", ["cls", "seg"])
    assert frames.read_batch(table, blobs) == requests

    async def read():
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        return await frames.read(stream)

    assert asyncio.run(read()) == (table, blobs)


def test_query_strings():
    assert parse_query(b"a=1&b=%C3%A4", ("a", "b")) == {"a": "1", "b": "ä"} and parse_query(b"", ("a",)) == {}
    for query in (b"c=1", b"a=1&a=2", b"a=", b"a", b"a=\xff", b"a=%ff", b"a=1&" * 9):
        with pytest.raises(BadRequest):
            parse_query(query, ("a", "b"))
    options = parse_request_options(
        b"heads=x,y&masks=png&min_score=0.5&answers=binary", ("heads", "masks", "min_score", "answers")
    )
    assert options.heads == ("x", "y")
    assert options.answer_format == AnswerFormat(media=protocol.ANSWERS, masks="png", min_score=0.5)
    assert parse_request_options(b"", ()).answer_format == AnswerFormat()
    for query in (b"min_score=nan", b"min_score=2", b"min_score=x", b"masks=x", b"answers=x"):
        with pytest.raises(BadRequest, match=query.partition(b"=")[0].decode()):
            parse_request_options(query, ("masks", "min_score", "answers"))
