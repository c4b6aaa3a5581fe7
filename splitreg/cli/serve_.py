"""``splitreg serve``: bundles behind HTTP and WebSocket."""

from __future__ import annotations

import json
import sys

import click

from splitreg.recipe import PRECISIONS

_POSITIVE, _SECONDS = click.IntRange(min=1), click.FloatRange(min=0, min_open=True)


@click.command("serve")
@click.argument("bundles", nargs=-1, type=click.Path(), metavar="[BUNDLE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--heads", metavar="NAME,...", help="Load only these heads.  [default: all]")
@click.option("--workers", type=_POSITIVE, default=1, show_default=True, help="Processes that compute.")
@click.option("--threads", type=_POSITIVE, help="CPU threads a worker.  [default: the cores shared]")
@click.option("--device", default="cpu", show_default=True, help="Where workers compute: cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
              help="Of what workers compute; mixed: layers that bear it in 16 bits.")  # fmt: skip
@click.option("--batch", type=_POSITIVE, default=8, show_default=True, help="Images that run together.")
@click.option("--queue", type=_POSITIVE, default=256, show_default=True, help="Images that may wait.")
@click.option("--deadline", type=_SECONDS, default=30.0, show_default=True, help="Seconds to an answer, at most.")
@click.option("--rate", type=click.FloatRange(min=0), default=200.0, show_default=True,
              help="Requests a second of one client; 0: any number.")  # fmt: skip
@click.option("--max-body", type=_POSITIVE, default=16 << 20, show_default=True, help="Bytes of a request.")
@click.option("--max-images", type=_POSITIVE, default=32, show_default=True, help="Images of a request.")
@click.option("--connections", type=_POSITIVE, default=16_000, show_default=True, help="Open at a time.")
@click.option("--token-file", type=click.Path(dir_okay=False), help="Tokens, one a line; a request must bear one.")
@click.option("--tls-cert", type=click.Path(dir_okay=False), help="Certificate chain, PEM.")
@click.option("--tls-key", type=click.Path(dir_okay=False), help="Its key, PEM.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without token or TLS.")
@click.option("--page", is_flag=True, help="A page for browsers at /, with pictures encoded here.")
@click.option("--drain-seconds", type=_SECONDS, default=30.0, show_default=True, help="From SIGTERM to the end.")
@click.option("--log-file", type=click.Path(dir_okay=False), help="JSON lines, rolling.  [default: stderr]")
@click.option(
    "--on", type=click.Choice(["machine", "ray"]), default="machine", show_default=True, help="What computes."
)
@click.option(
    "--config", type=click.Path(dir_okay=False), help="With --on ray: bundles, limits and replicas in a file."
)
@click.pass_context
def command(
    context: click.Context,
    bundles: tuple[str, ...], host: str, port: int, heads: str | None, workers: int, threads: int | None, device: str,
    precision: str, batch: int, queue: int, deadline: float, rate: float, max_body: int, max_images: int,
    connections: int, token_file: str | None, tls_cert: str | None, tls_key: str | None, insecure: bool, page: bool,
    drain_seconds: float, log_file: str | None, on: str, config: str | None,
) -> None:  # fmt: skip
    """Answer packets over HTTP and WebSocket with the server halves of BUNDLEs.

    When requests are taken, one line on stdout says where: {"event": "ready", "url": ...}. SIGTERM answers what was
    accepted and ends; SIGHUP loads the bundles again without losing a request.

    \b
    splitreg serve my-bundle
    splitreg serve my-bundle --host 0.0.0.0 --token-file tokens --tls-cert cert.pem --tls-key key.pem
    splitreg serve --on ray --config cluster.toml
    """
    from splitreg.errors import MissingExtra, RecipeError

    out = sys.stdout

    def ready(url: str) -> None:
        click.echo(json.dumps({"event": "ready", "url": url}), file=out)

    try:
        from splitreg.serving import ServeConfig, security, serve
    except ModuleNotFoundError as cause:
        raise MissingExtra(
            f"serving needs {cause.name}, which is not installed; pip install 'splitreg[serve]'"
        ) from cause

    if on == "ray":
        from splitreg.serving.on_ray import read_cluster, serve_on_ray

        given = [f"--{name}" for name in context.params if _is_given(context, name) and name not in ("on", "config")]
        if given or config is None:
            raise RecipeError(f"on Ray everything is in one file, give --config alone{_instead_of(given)}")
        return serve_on_ray(read_cluster(config), ready)
    if config is not None or not bundles:
        raise RecipeError("name the bundles to serve; --config FILE is for --on ray")
    serve(
        ServeConfig(
            bundles=bundles, heads=None if heads is None else tuple(heads.split(",")), host=host, port=port,
            workers=workers, threads=threads or 0, device=device, precision=precision, batch_images=batch,
            queue_images=queue, deadline_seconds=deadline, rate_per_s=rate, body_bytes=max_body,
            request_images=max_images, connections=connections,
            tokens=() if token_file is None else security.read_tokens(token_file), insecure=insecure, tls_cert=tls_cert,
            tls_key=tls_key, page=page, drain_seconds=drain_seconds, log_file=log_file,
        ),
        ready,
    )  # fmt: skip


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _instead_of(given: list[str]) -> str:
    return f", and there what {', '.join(name.replace('_', '-') for name in given)} says" if given else ""
