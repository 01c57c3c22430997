"""The command line: one word per task, one clear sentence on bad input, exit code 2.

A command imports its part when it runs: edge devices have this command line too, without torch or
ray.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from understudy.cli.commands.cloud import app as cloud
from understudy.cli.commands.demo import HELP as DEMO_HELP
from understudy.cli.commands.demo import demo
from understudy.cli.commands.distill import app as distill
from understudy.cli.commands.doctor import HELP as DOCTOR_HELP
from understudy.cli.commands.doctor import doctor
from understudy.cli.commands.edge import app as edge
from understudy.cli.commands.node import app as node
from understudy.cli.commands.policy import app as policy
from understudy.cli.commands.release_keys import app as release
from understudy.cli.commands.simulate import HELP as SIMULATE_HELP
from understudy.cli.commands.simulate import simulate
from understudy.types.errors import UnderstudyError

app = typer.Typer(
    name="understudy",
    help="A small student answers on the edge, a large teacher what it is not sure of.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", help=DEMO_HELP, epilog="Example: understudy demo --out demo")(demo)
app.command(
    "simulate",
    help=SIMULATE_HELP,
    epilog="Example: understudy simulate --seed seed.jsonl --stream stream.jsonl --out out",
)(simulate)
app.command("doctor", help=DOCTOR_HELP, epilog="Example: understudy doctor --cloud cloud.yaml")(
    doctor
)
app.add_typer(cloud, name="cloud")
app.add_typer(node, name="node")
app.add_typer(distill, name="distill")
app.add_typer(release, name="release")
app.add_typer(policy, name="policy")
app.add_typer(edge, name="edge")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.")
    ] = False,
) -> None:
    """Options of the whole program."""
    if show_version:
        typer.echo(f"understudy {version('understudy')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 - one way out a fault
    """Runs the command line; returns the exit code: 0 done, 1 a check failed, 2 bad input."""
    try:
        result = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments),
            prog_name="understudy",
            standalone_mode=False,
        )
    except UnderstudyError as error:
        return _complain(str(error), error.hint)
    except typer.TyperException as error:
        # A group named without a command has shown its help, and has no message.
        message = error.format_message()
        return _complain(message, "--help shows what the command takes") if message else 2
    except ModuleNotFoundError as error:
        return _complain(_missing_part(error), "")
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("understudy: stopped", err=True)
        return 130
    except BrokenPipeError:
        # Who read our output has left, as `| head` does; Python must not flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(f"{error.filename or 'the system'}: {error.strerror or error}", "")
    return result if isinstance(result, int) else 0


def _complain(message: str, hint: str) -> int:
    typer.echo(f"understudy: {message}" + (f" ({hint})" if hint else ""), err=True)
    return 2


def _missing_part(error: ModuleNotFoundError) -> str:
    """Names the extra that brings the missing module."""
    extras = {"ray": "cloud", "torch": "distill", "transformers": "distill", "redis": "cloud"}
    extras |= {"vllm": "vllm", "sklearn": "distill", "scipy": "certify", "jinja2": "distill"}
    extras |= {"matplotlib": "distill", "onnx": "distill", "uvicorn": "sidecar"}
    name = (error.name or "").partition(".")[0]
    extra = extras.get(name, "all")
    return f"this command needs '{name}': pip install 'understudy[{extra}]'"
