"""The command line: wiring only. What is heavy is imported by the command that needs it.

- `train.py`: train the experiment; `run.py`: any script, recorded
- `answers.py`: diagnose, compare: what happened in a run
- `replay.py`: the run on the screen; `report.py`: as a web page
- `files.py`: info, verify, compact, export: the run file itself
- `options.py`: what several commands take; `output.py`: a file that a command writes
"""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from nanscope import __version__
from nanscope.cli import answers, files, replay, report, run, train
from nanscope.cli.options import INTERRUPTED, complain
from nanscope.errors import NanscopeError

EXIT_CODES = """\b
Exit codes:
    0  done; healthy
    1  findings of severity error
    2  a mistake in the command
    3  a file that cannot be read, or is damaged
  130  interrupted"""

SCRIPTS_CODES = """\b
Exit codes: those of the script, and
      1  it was ended at a non-finite value (--on-nonfinite stop)
      2  a mistake in the command
    130  interrupted"""

TRAIN_CODES = """\b
Exit codes:
      0  trained, however it ended
      2  a mistake in the command
    130  interrupted"""

OTHER_CODES = {run.run: SCRIPTS_CODES, train.train: TRAIN_CODES}

COMMANDS = {
    train.train: "Train the batch-size experiment, recorded.",
    run.run: "Run any script as `python` would, recorded.",
    answers.diagnose: "Say what happened, where, when and why, and what to try.",
    answers.compare: "Set the cases of an experiment side by side.",
    replay.replay: "Walk through runs on the screen, step by step.",
    report.report: "Write what happened as one web page, with charts.",
    files.export: "Write a run as a table: csv, parquet or tensorboard.",
    files.info: "Say what is in a run file.",
    files.verify: "Check every checksum, count and summary of a file.",
    files.compact: "Compress a run file in place.",
}
"""In the order in which they are needed, each in one line."""


class _Commands(click.Group):
    """The group; a reader of our output that has seen enough (`| head`) ends the command quietly."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # left to click it would be exit code 1, which means findings
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table, not of the alphabet."""
        del ctx
        return list(self.commands)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_CODES)
@click.version_option(__version__, prog_name="nanscope")
def cli() -> None:
    """Which step, which tensor, and why: divergence diagnosis for PyTorch training."""


for command, line in COMMANDS.items():
    command.epilog, command.short_help = OTHER_CODES.get(command, EXIT_CODES), line
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line: every expected error is one line on stderr, and the exit code that it names."""
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # a file must not make libhdf5 load code
    try:
        cli.main(prog_name="nanscope", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "nanscope"
        _fail(f"{error.format_message()} See {path} --help", error.exit_code)
    except NanscopeError as error:
        _fail(str(error), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _fail(text: str, code: int) -> NoReturn:
    complain(text)
    sys.exit(code)
