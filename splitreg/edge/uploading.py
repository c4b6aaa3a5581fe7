"""Send many images, at once or through the outbox of the client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from splitreg.edge.answer import Answer, DrainReport
from splitreg.edge.client import Client
from splitreg.errors import DeadlinePassed, ImageError, OverBudget, SplitregError

if TYPE_CHECKING:
    from splitreg.imaging import ImageLike

Images = Iterable[tuple[str, "ImageLike"]]
OnError = Callable[[str, SplitregError], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadReport:
    """Result of an upload: images that ``failed``, and packets ``left`` in the outbox."""

    failed: int
    left: int = 0


def upload(
    client: Client,
    images: Images,
    on_answer: Callable[[Answer], None],
    *,
    on_error: OnError,
    rate: Mapping[str, Any] | None = None,
) -> UploadReport:
    """Send images in order; an image that fails does not stop the others.

    If the client has an outbox, images are encoded into it while a second connection drains it. The
    upload ends when every packet is answered, or the oldest is not answered within the client's
    deadline.

    Args:
        client: sends the images.
        images: (name, image).
        on_answer: called with every answer, in order; in another thread if there is an outbox.
        on_error: called with the name and the error of every image that failed.
        rate: the options ``rate``, ``budget_bytes`` and ``budget_ms`` of ``Client.send``.

    Raises:
        SplitregError: an error that is not about one image, for instance ``Unauthorized``.
    """
    if client.outbox is None:
        failed = 0
        for name, image in images:
            try:
                answer = client.send(image, name=name, **(rate or {}))
            except (DeadlinePassed, ImageError, OverBudget) as error:  # the next image may succeed
                on_error(name, error)
                failed += 1
            else:
                on_answer(answer)
        return UploadReport(failed=failed)
    return _upload_through_outbox(client, images, on_answer, on_error, rate or {})


def _upload_through_outbox(
    client: Client, images: Images, on_answer: Callable[[Answer], None], on_error: OnError, rate: Mapping[str, Any]
) -> UploadReport:
    """Encode into the outbox while a thread drains it, then drain until no packet is answered."""
    reports: list[DrainReport] = []
    errors: list[BaseException] = []
    submitted = threading.Event()

    def drain() -> None:
        try:
            with client.drainer() as drainer:
                final = False
                while not final:
                    final = submitted.wait(0.0 if reports and reports[-1].left else 0.05)
                    reports.append(drainer.drain(on_answer, patience_s=client.options.deadline_s))
        except BaseException as error:  # raised again in the calling thread
            errors.append(error)

    thread = threading.Thread(target=drain, name="drain", daemon=True)  # does not delay an interrupt
    thread.start()
    failed = 0
    try:
        for name, image in images:
            if errors:
                break
            try:
                client.submit(image, name=name, **rate)
            except (ImageError, OverBudget) as error:  # the next image may succeed
                on_error(name, error)
                failed += 1
    except SplitregError as error:  # queued packets are sent before it is raised
        errors.append(error)
    submitted.set()
    thread.join()
    if errors:
        raise errors[0]
    return UploadReport(failed=failed, left=reports[-1].left)
