"""`understudy edge`: a shell's view of an embedded client."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from understudy.cli.output import show_fields

app = typer.Typer(no_args_is_help=True, help="Ask an embedded client, or serve it on loopback.")
Config = Annotated[Path, typer.Option("-c", "--config", help="edge.yaml, or a bundle's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object for scripts.")]
DEFAULT = Path("edge.yaml")


@app.command(epilog="Example: understudy edge predict 'where is my parcel?' -c edge.yaml")
def predict(
    text: Annotated[str, typer.Argument(help="The input; - reads standard input.")],
    config: Config = DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Answers one text as the product would get it."""
    from understudy.edge import EdgeClient

    words = sys.stdin.read() if text == "-" else text
    with EdgeClient.open(config) as client:
        answer = client.predict(words)
        client.flush(2.0)
    show_fields(answer, as_json=as_json)


@app.command(epilog="Example: understudy edge status -c edge.yaml --json")
def status(config: Config = DEFAULT, as_json: AsJson = False) -> None:
    """Says which student is loaded, what it may keep, and what waits for the cloud."""
    from understudy.edge import EdgeClient

    with EdgeClient.open(config) as client:
        show_fields(client.status(), as_json=as_json)


@app.command(epilog="Example: understudy edge serve -c edge.yaml")
def serve(config: Config = DEFAULT) -> None:
    """Serves a client on loopback, over HTTP and gRPC, until SIGTERM or Ctrl-C."""
    from understudy.edge.sidecar import Sidecar
    from understudy.edge.sidecar import serve as serve_sidecar

    def tell(sidecar: Sidecar) -> None:
        ports = {"http": sidecar.http_port, "grpc": sidecar.grpc_port}
        said = [f"{face} on port {port}" for face, port in ports.items() if port >= 0]
        typer.echo(f"answering: {', '.join(said)}")

    serve_sidecar(config, tell)
