# SPDX-License-Identifier: Apache-2.0
"""The top of the command line: which commands there are, and how a failure becomes one sentence and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple, cast

import click

from firstkit import __version__
from firstkit.core.errors import FirstError
from firstkit.core.nearest import nearest, or_list


class Entry(NamedTuple):
    """Where a command is defined, and what `first --help` says of it."""

    module: str
    help: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "Use a service": {
        "models": Entry("listings", "List the models you may use, and how each is doing."),
        "chat": Entry("chat", "Talk to a model; the answer streams."),
        "wait": Entry("waiting", "Block until a model is hot."),
        "why": Entry("asking", "Say in one sentence why a model is not up."),
        "whoami": Entry("people", "Say who you are and what you may use."),
        "agent": Entry("agents", "Set a coding agent up to use this service."),
        "bench": Entry("bench", "Measure any OpenAI URL under load."),
    },
    "Serve": {
        "up": Entry("serving", "Run everything on this machine until Ctrl-C."),
        "gateway": Entry("serving", "Run a gateway and its api."),
        "controller": Entry("serving", "Run the controller."),
        "api": Entry("serving", "Run the management API alone."),
        "launch": Entry("serving", "Run one job: what a scheduler starts."),
        "config": Entry("configuration", "Check and explain the configuration file."),
        "store": Entry("serving", "Bring the store up to date."),
    },
    "Operate": {
        "clusters": Entry("listings", "List the clusters."),
        "deployments": Entry("listings", "List the deployments."),
        "instances": Entry("listings", "List running engines; --watch follows them."),
        "jobs": Entry("listings", "List scheduler jobs."),
        "usage": Entry("listings", "Sum up requests and tokens by model."),
        "explain": Entry("asking", "Say where a request went, and why."),
        "keys": Entry("people", "Make, list and revoke API keys."),
        "deploy": Entry("deploying", "Apply, compare, scale, drain, cordon, read logs."),
        "stop": Entry("stopping", "Cancel all our jobs on a cluster and submit no more."),
        "resume": Entry("stopping", "Submit jobs on a cluster again."),
        "maintenance": Entry("announcing", "Announce a time in which no job of ours may run on a cluster."),
        "gate": Entry("gating", "Confine firstkit's key at a login node to its own jobs."),
        "doctor": Entry("doctor", "Check a cluster end to end."),
    },
    "Other": {
        "completion": Entry("completing", "Print the completion script of your shell."),
    },
}

COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}

_SERVER_PACKAGES = frozenset(
    """
    alembic cryptography fastapi httptools msgspec prometheus_client psycopg pydantic pydantic_core ruamel sqlalchemy
    starlette uvicorn uvloop
    """.split()  # noqa: SIM905 a list of words is read more easily
)


def _with_examples(command: click.Command) -> click.Command:
    r"""Make the `\b` of raw docstrings, as linters want them, the character by which click keeps lines as they are."""
    if command.help:
        command.help = command.help.replace("\\b\n", "\b\n")
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _with_examples(below)
    return command


class Commands(click.Group):
    """Imports the module of a command when that command is run, and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(f"firstkit.apps.cli.{entry.module}")
        return _with_examples(cast("click.Command", getattr(module, f"{cmd_name}_command")))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], COMMANDS)
            hint = f"; did you mean {or_list(close)}?" if close else ""
            raise click.UsageError(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in entries.items()])


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`first COMMAND --help` gives examples. Client commands read FIRST_BASE_URL and FIRST_API_KEY (also "
    "OPENAI_BASE_URL and OPENAI_API_KEY); without them they look into ./.first, where `make up` keeps its state.",
)
@click.version_option(__version__, prog_name="first", message="%(prog)s %(version)s")
def cli() -> None:
    r"""HPC clusters as one OpenAI-compatible inference service.

    \b
    first up                       serve a real model on this machine
    first models                   what is there, and what is hot
    first chat smollm2 "Hello!"    talk to it
    """


_with_examples(cli)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every failure is one sentence on stderr."""
    try:
        result = cli.main(args=list(arguments), prog_name="first", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "first"
        _say(f"{_sentence(error.format_message())} (`{where} --help`)")
        return 2
    except click.ClickException as error:
        _say(_sentence(error.format_message()))
        return 1
    except (click.Abort, KeyboardInterrupt):
        _say("stopped")
        return 1
    except FirstError as error:
        _say(error.message)
        return 1
    except ExceptionGroup as group:
        _say(_of_tasks(group).message)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in _SERVER_PACKAGES:
            raise
        _say(f"this command needs the server packages ({package} is missing): pip install 'firstkit[server]'")
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _of_tasks(group: ExceptionGroup[Exception]) -> FirstError:
    """Find the one error of ours that ended the tasks of a process; anything else is a fault, and raised as it is."""
    if len(group.exceptions) == 1:
        (error,) = group.exceptions
        if isinstance(error, FirstError):
            return error
        if isinstance(error, ExceptionGroup):
            return _of_tasks(cast("ExceptionGroup[Exception]", error))
    raise group


def _sentence(text: str) -> str:
    """Make one line of click's messages, in our manner: no capital at the start, no full stop at the end."""
    line = " ".join(text.split()).rstrip(".")
    first = line.split(" ", 1)[0]
    return line[0].lower() + line[1:] if first.istitle() else line


def _say(text: str) -> None:
    click.echo(f"first: {text}", err=True)
