"""The front door at the keyboard: stdout is data, stderr is talk, and every error is one sentence.

Nothing heavy is imported at the top, so `--help` answers at once; each command imports what it needs. Exit codes: 0
done, 1 some pictures failed, 2 usage, 3 weights, 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

import click

from ovseg.cli import calibrating, machine, pictures, pointing
from ovseg.errors import OvsegError


class _Commands(click.Group):
    """Commands in the order in which people meet them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, as added."""
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ovseg")
def app() -> None:
    """Type words, get pixels: label the regions, or the faults, that a text names in a picture.

    \b
    Examples:
      ovseg segment example:meadow -p cow -p dog -o out             the bundled model on a bundled picture
      ovseg segment photo.jpg -p cat -p "dog=dog|puppy" --json      regions as JSON, nothing written
      ovseg label pictures/ -p bolt -p nut -o drafts                a folder into COCO annotations, resumable
    """


SEEN = (pictures.segment, pictures.anomaly, pointing.point, pictures.label, pictures.demo)
for command in (*SEEN, calibrating.calibrate, machine.weights, machine.check):
    app.add_command(command)


# torch's threads wait for each other by spinning: beside other work on the same cores a window of ViT-B/16 then takes
# 1.8 s for 0.24 s (load 10 on two cores, tests/bench/load.py). OpenMP reads this when torch is loaded.
PATIENCE = {"OMP_WAIT_POLICY": "passive"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end with its exit code; every error of ours is one sentence on stderr."""
    if "torch" not in sys.modules:
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
    try:
        code = app.main(
            args=list(arguments) if arguments is not None else None, prog_name="ovseg", standalone_mode=False
        )
    except OvsegError as error:
        click.echo(f"ovseg: {' '.join(str(error).split())}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("ovseg: interrupted", err=True)
        code = 130
    sys.exit(code or 0)


__all__ = ["PATIENCE", "app", "main"]
