"""Options that several words of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CLOUD_YAML = Path("cloud.yaml")
CloudConfigFile = Annotated[Path, typer.Option("-c", "--config", help="The cloud's YAML file.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]
