"""Prints refusals, click's own included: as text, or as JSON where --json is given."""

from __future__ import annotations

import itertools
import json
import sys

import click

from lab.refusals import RequestError


class CommandGroup(click.Group):
    """A group that prints its help without a command, and refuses an unknown command with the nearest name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not ctx.resilient_parsing:
            problem = f"no command is called '{args[0]}'"
            raise RequestError(problem, kind="not_found", given=args[0], expected=tuple(names))
        return super().resolve_command(ctx, args)


class NameChoice(click.Choice[str]):
    """A choice that refuses an unknown value with the nearest name."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value not in self.choices:
            raise RequestError(key=_name(param), given=value, expected=tuple(self.choices))
        return super().convert(value, param, ctx)


def print_refusal(error: RequestError) -> None:
    """Print a refusal to standard error; with --json among this process's arguments, as JSON to standard output."""
    options = itertools.takewhile(lambda argument: argument != "--", sys.argv[1:])
    if "--json" in options:
        click.echo(json.dumps(error.as_dict(), indent=1))
    else:
        click.echo(f"lab: {error}", err=True)


def refusal_of(error: click.ClickException) -> RequestError:
    """The refusal for an error of click's: an unknown option, a missing argument, a wrong value."""
    match error:
        case click.NoSuchOption():
            name = error.option_name
            nearest = next(iter(error.possibilities or ()), None)
            return RequestError("no such option", kind="unknown_key", key=name, given=name, nearest=nearest)
        case click.MissingParameter():
            return RequestError(kind="missing", key=_name(error.param))
        case click.BadParameter():
            return RequestError(error.message.removesuffix("."), key=_name(error.param), given=_given(error.param))
    return RequestError(error.format_message().removesuffix("."), kind="usage")


def _name(param: click.Parameter | None) -> str | None:
    """The name that a user knows: `--threads` of an option, `SWEEP` of an argument."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return None if param is None else param.human_readable_name


def _given(param: click.Parameter | None) -> str | None:
    """An option's value as typed; None for an option that may be repeated."""
    if not isinstance(param, click.Option) or param.multiple:
        return None
    values = [
        argument.partition("=")[2] if "=" in argument else following
        for argument, following in zip(sys.argv[1:], [*sys.argv[2:], ""], strict=True)
        if argument.partition("=")[0] in param.opts
    ]
    return values[-1] if values else None
