"""Run code that may crash or hang in a child process."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable


def isolated(check: Callable[[], str | None], seconds: int = 60) -> str:
    """Run ``check`` in a forked child process; in this process if the system cannot fork.

    Args:
        check: function that may raise, crash or hang; it may return a remark.
        seconds: time limit; the system then kills the child, even in native code.

    Returns:
        The remark, otherwise an empty string.

    Raises:
        AssertionError: the check failed, crashed or timed out; the message says which, a note has
            the child's traceback.
    """
    if not hasattr(os, "fork"):
        return check() or ""
    sys.stdout.flush()
    sys.stderr.flush()
    readable, writable = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child runs only numpy and the plugin
        child = os.fork()
    if child == 0:
        os.close(readable)
        os._exit(_child(check, writable, seconds))
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        message, _, trace = pipe.read().decode("utf-8", "replace").partition("\0")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        hung = number == signal.SIGALRM
        raise AssertionError(f"timed out after {seconds} s" if hung else f"crashed: {signal.strsignal(number)}")
    if os.WEXITSTATUS(status):
        failure = AssertionError(message or f"exited with status {os.WEXITSTATUS(status)}")
        failure.add_note(trace)
        raise failure
    return message


def _child(check: Callable[[], str | None], pipe: int, seconds: int) -> int:
    try:
        faulthandler.disable()  # the parent reports the signal
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        os.write(pipe, (check() or "")[:2048].encode())
    except BaseException as error:
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        text = f"{kind}{error}"[:2048] + "\0" + traceback.format_exc()[-16384:]
        os.write(pipe, text.encode())
        return 1
    return 0
