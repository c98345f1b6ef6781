"""`lab export RUN DIR`: writes a run's model as a Hugging Face folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

import click

from lab.cli import completion
from lab.cli.options import root_option


@click.command("export")
@click.argument("run", shell_complete=completion.runs)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@root_option
def command(run: str, folder: Path, root: Path) -> None:
    """Write RUN's model to DIR, in the format that AutoModelForCausalLM loads. DIR must be new or empty."""
    from lab.evaluation.exported import added_tokens, published_settings
    from lab.evaluation.load import load_model
    from lab.interop.folder import export_folder
    from lab.records import TOKENIZER, resolve
    from lab.refusals import RequestError
    from lab.training.checkpoints.verified import weights_at

    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder}: exists and isn't an empty folder")
    loaded = load_model(resolve(root, run), "cpu")
    tokenizer = loaded.run.path / TOKENIZER / "tokenizer.json"
    tokenizer_file = tokenizer if tokenizer.is_file() else None
    settings, added = published_settings(loaded), added_tokens(loaded)
    # Write beside the target, then rename: the rename replaces an empty folder that may be there.
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}")
    try:
        export_folder(
            loaded.experiment.model,
            weights_at(loaded.checkpoint),  # in the dtype in which they are stored
            staging,
            model_type=settings.model_type,
            settings=settings,
            tokenizer=tokenizer_file,
            added=added,
        )
        os.replace(staging, folder)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(staging)
    click.echo(f"exported: {loaded.run.name}, step {loaded.step:,}: {folder}")
    if tokenizer_file is None:
        name = loaded.experiment.data.tokenizer.name
        click.echo(f"its tokenizer '{name}' has no file to export; give `lab import` data/tokenizer={name}")
