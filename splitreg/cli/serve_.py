"""``splitreg serve``: serve bundles over HTTP and WebSocket."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from splitreg.recipe import PRECISIONS

if TYPE_CHECKING:
    from splitreg.serving import ServeConfig

_POSITIVE, _SECONDS = click.IntRange(min=1), click.FloatRange(min=0, min_open=True)


@click.command("serve")
@click.argument("bundles", nargs=-1, type=click.Path(), metavar="[BUNDLE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="Port to listen on; 0 selects a free one.")  # fmt: skip
@click.option("--heads", metavar="NAME,...", help="Heads to load.  [default: all]")
@click.option("--workers", type=_POSITIVE, default=1, show_default=True, help="Number of worker processes.")
@click.option("--threads", type=_POSITIVE, help="CPU threads per worker.  [default: cores / workers]")
@click.option("--device", default="cpu", show_default=True, help="Where workers compute: cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
              help="Precision of the workers; mixed runs suitable layers in 16 bits.")  # fmt: skip
@click.option("--batch", type=_POSITIVE, default=8, show_default=True, help="Maximum images per batch.")
@click.option("--queue", type=_POSITIVE, default=256, show_default=True, help="Maximum images in the queue.")
@click.option("--deadline", type=_SECONDS, default=30.0, show_default=True, help="Maximum seconds per request.")
@click.option("--rate", type=click.FloatRange(min=0), default=200.0, show_default=True,
              help="Maximum requests per second and client; 0 disables the limit.")  # fmt: skip
@click.option("--max-body", type=_POSITIVE, default=16 << 20, show_default=True, help="Maximum bytes per request.")
@click.option("--max-images", type=_POSITIVE, default=32, show_default=True, help="Maximum images per request.")
@click.option("--connections", type=_POSITIVE, default=16_000, show_default=True, help="Maximum open connections.")
@click.option("--token-file", type=click.Path(dir_okay=False),
              help="Accepted bearer tokens, one per line.  [default: no authentication]")  # fmt: skip
@click.option("--allowed-host", multiple=True, metavar="NAME",
              help="Accepted name of this server in the Host header; repeat for several.")  # fmt: skip
@click.option("--allowed-origin", multiple=True, metavar="ORIGIN",
              help="Origin of web pages that may send requests; repeat for several.")  # fmt: skip
@click.option("--trusted-proxy", multiple=True, metavar="ADDRESS",
              help="Proxy whose X-Forwarded-For is believed; repeat for several.")  # fmt: skip
@click.option("--tls-cert", type=click.Path(dir_okay=False), help="Certificate chain, a PEM file.")
@click.option("--tls-key", type=click.Path(dir_okay=False), help="Private key, a PEM file.")
@click.option("--insecure", is_flag=True, help="Allow a public address without token or TLS.")
@click.option("--page", is_flag=True, help="Serve a page for browsers at /, and encode its images.")
@click.option("--drain-seconds", type=_SECONDS, default=30.0, show_default=True,
              help="Maximum seconds from SIGTERM to exit.")  # fmt: skip
@click.option("--log-file", type=click.Path(dir_okay=False), help="Rotated log file, JSON lines.  [default: stderr]")
@click.option("--check", is_flag=True, help="Check configuration, bundles and machine; serve nothing.")
@click.option("--on", type=click.Choice(["machine", "ray"]), default="machine", show_default=True,
              help="Compute on this machine or on a Ray cluster.")  # fmt: skip
@click.option("--config", type=click.Path(dir_okay=False), help="With --on ray: the cluster file, TOML.")
@click.pass_context
def command(
    context: click.Context,
    bundles: tuple[str, ...], host: str, port: int, heads: str | None, workers: int, threads: int | None, device: str,
    precision: str, batch: int, queue: int, deadline: float, rate: float, max_body: int, max_images: int,
    connections: int, token_file: str | None,
    allowed_host: tuple[str, ...], allowed_origin: tuple[str, ...], trusted_proxy: tuple[str, ...],
    tls_cert: str | None, tls_key: str | None, insecure: bool, page: bool,
    drain_seconds: float, log_file: str | None, check: bool, on: str, config: str | None,
) -> None:  # fmt: skip
    """Serve the server halves of BUNDLEs over HTTP.

    Devices send packets over HTTP or a WebSocket and get predictions. Once requests are accepted,
    one line is written to stdout: {"event": "ready", "url": ...}. SIGTERM answers accepted requests
    and exits; SIGHUP reloads bundles, tokens and certificate.

    \b
    splitreg serve my-bundle
    splitreg serve my-bundle --host 0.0.0.0 --token-file tokens --tls-cert cert.pem --tls-key key.pem
    splitreg serve --on ray --config cluster.toml
    """
    from splitreg.errors import MissingExtra, RecipeError

    out = sys.stdout

    def on_ready(url: str) -> None:
        click.echo(json.dumps({"event": "ready", "url": url}), file=out)

    try:
        from splitreg.serving import ServeConfig, serve
    except ModuleNotFoundError as cause:
        raise MissingExtra(
            f"serving needs {cause.name}, which is not installed; pip install 'splitreg[serve]'"
        ) from cause

    if on == "ray":
        from splitreg.serving.on_ray import read_cluster, serve_on_ray

        others = [name for name in context.params if _on_command_line(context, name) and name not in ("on", "config")]
        if others or config is None:
            raise RecipeError(f"--on ray needs --config FILE and no other options{_move_to_file(others)}")
        return serve_on_ray(read_cluster(config), on_ready)
    if config is not None or not bundles:
        raise RecipeError("give at least one BUNDLE to serve; --config FILE is only for --on ray")
    serve_config = ServeConfig(
        bundles=bundles, heads=None if heads is None else tuple(heads.split(",")), host=host, port=port,
        workers=workers, threads=threads or 0, device=device, precision=precision, max_batch_images=batch,
        max_queue_images=queue, deadline_seconds=deadline, max_requests_per_s=rate, max_body_bytes=max_body,
        max_request_images=max_images, max_connections=connections, token_file=token_file, allowed_hosts=allowed_host,
        allowed_origins=allowed_origin, trusted_proxies=trusted_proxy, insecure=insecure, tls_cert=tls_cert,
        tls_key=tls_key, page=page, drain_seconds=drain_seconds, log_file=log_file,
    )  # fmt: skip
    if check:
        return _print_checks(serve_config)
    serve(serve_config, on_ready)


def _print_checks(config: ServeConfig) -> None:
    from splitreg.serving.preflight import check_deployment

    checks = check_deployment(config)
    for check in checks:
        message = {} if check.ok else {"message": check.message}
        click.echo(json.dumps({"check": check.name, "ok": check.ok, **message, **check.facts}))
    if not all(check.ok for check in checks):
        raise SystemExit(1)


def _on_command_line(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _move_to_file(names: list[str]) -> str:
    if not names:
        return ""
    return f"; move {', '.join('--' + name.replace('_', '-') for name in names)} to the file"
