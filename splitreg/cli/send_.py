"""``splitreg send``: pictures to a service and its predictions back; never torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.writing import write_whole

if TYPE_CHECKING:
    from splitreg.edge import Answer, Client, Drained
    from splitreg.imaging import ImageLike

_WHEN_FULL = ("refuse", "drop-oldest")


@click.command("send")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path())
@click.option("--to", "url", required=True, metavar="URL", help="The service, as https://server:8080.")
@click.option("--heads", metavar="NAME,...", help="Ask only these heads.  [default: all]")
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Fetch only objects from this score on.")  # fmt: skip
@click.option("--rate", type=float, help="0 (fewest bytes) to 1 (most), where BUNDLE has several.  [default: middle]")
@click.option("--budget-bytes", type=click.IntRange(min=1), help="The largest rate that fits so many bytes an image.")
@click.option("--budget-ms", type=float, help="The rate that meets so many milliseconds, by what the link shows.")
@click.option("--draw", type=click.Path(file_okay=False), help="Write a picture of every prediction into this folder.")
@click.option("--answers", type=click.Path(file_okay=False), help="Write every answer as NAME.json into this folder.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an image, a line each.")
@click.option("--outbox", type=click.Path(dir_okay=False), help="Keep packets in this file until they are answered.")
@click.option("--when-full", type=click.Choice(_WHEN_FULL), default="refuse", show_default=True, help="Of the outbox.")
@click.option("--deadline-s", type=float, default=10.0, show_default=True, help="For each image, attempts included.")
@click.option("--token-file", type=click.Path(), help="Holds the token.  [default: the variable SPLITREG_TOKEN]")
@click.option("--ca", type=click.Path(), help="PEM file of authorities to trust.  [default: the system's]")
@click.option("--insecure", is_flag=True, help="Allow a token without TLS, and any certificate.")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N", help="One frame of N of videos, cameras.")
def command(
    bundle: str, images: tuple[str, ...], url: str, heads: str | None, min_score: float, rate: float | None,
    budget_bytes: int | None, budget_ms: float | None, draw: str | None, answers: str | None, as_json: bool,
    outbox: str | None, when_full: str, deadline_s: float, token_file: str | None, ca: str | None, insecure: bool,
    every: int,
) -> None:  # fmt: skip
    """Send pictures to a service and print what its heads say; loads only the edge half of BUNDLE.

    IMAGE is a picture, a folder, a video, or camera:0 (the last two need 'splitreg[video]'). With --outbox, packets wait
    in a file while the link is down and are sent in order; without IMAGE, what waits there is sent.

    \b
    splitreg send my-bundle photo.jpg --to http://localhost:8080
    splitreg send my-bundle pictures --to http://localhost:8080 --heads seg --draw drawn --outbox waiting.db
    """
    from splitreg.edge import Client, EdgeEncoder, Outbox
    from splitreg.edge.transport import read_token
    from splitreg.errors import SplitregError

    if not images and outbox is None:
        raise click.UsageError("name a picture, a folder, a video or camera:0; or --outbox, to send what waits in it")
    options: dict[str, Any] = {
        "token": None if token_file is None else read_token(token_file), "ca": ca, "insecure": insecure,
        "deadline_s": deadline_s, "heads": None if heads is None else heads.split(","),
        "min_score": min_score,
    }  # fmt: skip
    chosen = {"rate": rate, "budget_bytes": budget_bytes, "budget_ms": budget_ms}
    show = _Showing(as_json, None if draw is None else Path(draw), None if answers is None else Path(answers))
    with Client(url, EdgeEncoder.open(bundle) if images else None, **options) as client:
        if outbox is None:
            failed = _send(client, _pictures(images, every, show), chosen, show)
            if failed:
                raise SplitregError(f"{failed} of {show.count + failed} images were not answered")
            return

        def drainer() -> Client:
            return Client(url, outbox=Outbox(outbox), link=client.link, **options)

        show.frames = False
        client.outbox = Outbox(outbox, when_full=when_full)
        left, failed = _submit(client, drainer, _pictures(images, every, show), chosen, show, deadline_s)
        if client.outbox.dropped:
            click.echo(f"{client.outbox.dropped} packets were dropped since {outbox} was made", err=True)
        if left:
            again = f"splitreg send {bundle} --to {url} --outbox {outbox}"
            raise SplitregError(f"{left} packets wait in {outbox}: {again} sends them")
        if failed or show.refused:
            raise SplitregError(f"{failed} pictures could not be sent, {show.refused} packets were refused")


class _Showing:
    """Prints, writes and draws answers."""

    def __init__(self, as_json: bool, draw: Path | None, answers: Path | None) -> None:
        self.as_json, self.draw, self.answers = as_json, draw, answers
        self.pictures: dict[str, Any] = {}  # what to draw over
        self.frames = True  # whether frames are kept too; not where many may wait
        self.count = self.refused = 0

    def __call__(self, answer: Answer) -> None:
        self.refused += answer.error is not None
        self.count += 1
        told = answer.to_json()
        if self.answers is not None:
            write_whole(self.answers / f"{_stem(answer.name)}.json", json.dumps(told, indent=1).encode())
        if self.as_json:
            click.echo(json.dumps(told))
        else:
            click.echo("\n".join(self._lines(answer)))
        if self.draw is not None:
            self._draw(answer, self.draw)
        self.pictures.pop(answer.name, None)

    @staticmethod
    def _lines(answer: Answer) -> Iterator[str]:
        if answer.error is not None:
            yield f"{answer.name}\terror\t{answer.error}"
            return
        times = answer.times
        yield (
            f"{answer.name}\t{answer.packet_bytes} bytes\t{times.total_ms:.0f} ms (encode {times.encode_ms:.0f}, "
            f"link {times.link_ms:.0f}, queue {times.queue_ms:.0f}, compute {times.compute_ms:.0f})"
        )
        for head, prediction in answer.predictions.items():
            text = json.dumps(prediction.to_json())
            yield f"{answer.name}\t{head}\t{text if len(text) <= 160 else text[:157] + '...'}"

    def _draw(self, answer: Answer, folder: Path) -> None:
        from splitreg import imaging
        from splitreg.wire import write_png

        if not answer.predictions:
            return
        picture = self.pictures.get(answer.name)
        if picture is None:  # it was submitted by another run, or was a frame
            click.echo(f"{answer.name} is not drawn: its picture is not at hand", err=True)
            return
        canvas = imaging.read(picture)
        for head, prediction in answer.predictions.items():
            write_whole(folder / f"{_stem(answer.name)}-{head}.png", write_png(prediction.draw(canvas)))


def _pictures(sources: tuple[str, ...], every: int, show: _Showing) -> Iterator[tuple[str, ImageLike]]:
    """Yield names and pictures; a name that would be written twice is a misuse."""
    from splitreg.edge import frames

    seen: set[str] = set()
    for source in sources:
        for name, picture in frames(source, every=every):
            if show.draw is not None or show.answers is not None:
                if _stem(name) in seen:
                    raise click.UsageError(f"two pictures would be written as {_stem(name)}; send them in two runs")
                seen.add(_stem(name))
                if show.draw is not None and (show.frames or isinstance(picture, Path)):
                    show.pictures[name] = picture
            yield name, picture


def _send(client: Client, pictures: Iterator[tuple[str, ImageLike]], chosen: dict[str, Any], show: _Showing) -> int:
    """Send one after the other; return how many were not answered."""
    from splitreg.errors import DeadlinePassed, ImageError, OverBudget

    failed = 0
    for name, picture in pictures:
        try:
            answer = client.send(picture, name=name, **chosen)
        except (DeadlinePassed, ImageError, OverBudget) as error:  # the next one may fare better
            click.echo(f"{name}: {error}", err=True)
            failed += 1
        else:
            show(answer)
    return failed


def _submit(
    client: Client, drainer: Callable[[], Client], pictures: Iterator[tuple[str, ImageLike]], chosen: dict[str, Any],
    show: _Showing, patience_s: float,
) -> tuple[int, int]:  # fmt: skip
    """Encode into the outbox while a thread sends from it, then send until nothing goes on.

    Returns:
        How many packets are left, and how many pictures have none.
    """
    from splitreg.errors import ImageError, OverBudget, SplitregError

    reports: list[Drained] = []
    problems: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            with drainer() as draining:
                last = False
                while not last:
                    last = ended.wait(0.0 if reports and reports[-1].left else 0.05)
                    reports.append(draining.drain(show, patience_s=patience_s))
        except BaseException as problem:  # raised again where the user sees it
            problems.append(problem)

    thread = threading.Thread(target=run, name="drain", daemon=True)  # an interrupted run does not wait for it
    thread.start()
    failed = 0
    try:
        for name, picture in pictures:
            if problems:
                break
            try:
                client.submit(picture, name=name, **chosen)
            except (ImageError, OverBudget) as error:  # the next one may fare better
                click.echo(f"{name}: {error}", err=True)
                failed += 1
    except SplitregError as problem:  # what waits is sent all the same
        problems.append(problem)
    ended.set()
    thread.join()
    if problems:
        raise problems[0]
    return reports[-1].left, failed


def _stem(name: str) -> str:
    """Return the name of what is written for a picture: ``photo.jpg`` is ``photo``, a video's frame keeps its number."""
    first, mark, number = name.partition("#")
    return Path(first).stem + (f"-{number}" if mark else "")
