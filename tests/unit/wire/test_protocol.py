"""Errors keep their type over HTTP, and stream messages their content."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitreg import errors
from splitreg.errors import (
    BadRequest,
    CorruptAnswer,
    CorruptPacket,
    ForeignPacket,
    ServiceError,
    SplitregError,
    Unavailable,
)
from splitreg.wire import error_body, error_from, join_packets, protocol, split_packets, status_of


def test_every_service_error_has_a_status_and_is_restored():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)]
    for kind in [*kinds[1:], CorruptPacket, ForeignPacket, errors.RecipeError]:
        status = status_of(kind("why"))
        back = error_from(status, error_body(kind("why")))
        assert kind in protocol.STATUSES or kind is CorruptPacket
        assert (type(back) is kind and str(back) == "why" and status != 500) or kind is errors.WorkerLost
    assert status_of(errors.ShapeMismatch("x")) == 400 and status_of(errors.BundleError("x")) == 500


def test_retry_after():
    body = error_body(Unavailable("full", retry_after_s=2.5))
    assert body["error"]["retry_after_s"] == 2.5
    assert error_from(503, body).retry_after_s == 2.5
    assert error_from(503, "<html>", "7").retry_after_s == 7
    assert error_from(503, None, "Fri, 31 Dec 1999").retry_after_s is None


@given(
    st.integers(100, 599), st.recursive(st.none() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x))
)
def test_any_body_becomes_an_error(status, body):
    assert isinstance(error_from(status, body, "x"), SplitregError)
    assert isinstance(error_from(status, {"error": body}), SplitregError)
    assert isinstance(
        error_from(status, {"error": {"type": body, "message": body, "retry_after_s": body}}), SplitregError
    )


def test_a_server_cannot_create_other_classes():
    for name in ("SystemExit", "PlanError", "near", "__doc__", "TrainingInterrupted", "SplitregError"):
        assert isinstance(error_from(400, {"error": {"type": name, "message": "m"}}), SplitregError)


@given(st.lists(st.binary(max_size=50)))
def test_several_packets_are_one_body(packets):
    assert list(split_packets(join_packets(packets))) == packets


@given(st.binary(max_size=60))
def test_any_body_is_packets_or_a_typed_error(body):
    try:
        assert join_packets(split_packets(body)) == body
    except CorruptPacket:
        pass


@given(st.integers(0, 2**64 - 1), st.integers(0, 999), st.binary())
def test_messages_of_a_stream(number, status, blob):
    assert protocol.read_request(protocol.write_request(number, blob)) == (number, blob)
    assert protocol.read_answer(protocol.write_answer(number, status, blob)) == (number, status, blob)


def test_messages_that_are_too_short():
    with pytest.raises(BadRequest):
        protocol.read_request(b"1234567")
    with pytest.raises(CorruptAnswer):
        protocol.read_answer(b"123456789")


@pytest.mark.parametrize("key", ["", "a" * 65, "a b", "é", "a\n", "٣"])
def test_invalid_idempotency_keys(key):
    with pytest.raises(BadRequest):
        protocol.check_key(key)


def test_the_wire_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, splitreg.wire; print([m for m in ('torch', 'PIL', 'starlette', 'timm') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
