"""`lab list`: lists what can be chosen in experiments and sweeps."""

from __future__ import annotations

import json
from typing import cast

import click

from lab.cli import completion
from lab.cli.options import json_option
from lab.cli.refusal_output import NameChoice

LISTS = ["components", "experiments", "sweeps", "kernels", "evaluators"]


@click.command("list")
@click.argument("what", type=NameChoice(LISTS), default="components")
@click.argument("kind", required=False, shell_complete=completion.kinds)
@json_option
def command(what: str, kind: str | None, as_json: bool) -> None:
    """List components, experiments, sweeps, kernels or evaluators.

    With a KIND, such as `lab list components norm`, the components of that kind are described in full.
    """
    from lab.composition import listing
    from lab.refusals import RequestError

    if kind is not None and what != "components":
        fix = f"use `lab list {what}`"
        raise RequestError("only components have kinds", kind="usage", key="KIND", given=kind, fix=fix)
    if what == "evaluators":
        what, kind = "components", "evaluator"
    rows = listing.list_rows(cast("listing.ListingKind", what), kind)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    from lab.terminal import wide_console

    wide_console().print(listing.list_table(what, rows, whole=kind is not None))
