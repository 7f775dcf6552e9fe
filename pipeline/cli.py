"""`relay`: the command line. Commands import what they need when they run, so that it starts at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pipeline import extras
from pipeline.promotion import commands as promotion_commands
from registry_hooks import settings
from registry_hooks.errors import RelayError, UserError
from registry_hooks.settings import Settings

app = typer.Typer(
    name="relay",
    help="Carries a language-model checkpoint from training into service, through the MLflow Model Registry.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
Config = Annotated[Path | None, typer.Option("--config", help="Settings file. Default: configs/local.yaml if there.")]


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder that `Trainer` or `save_pretrained` wrote.")],
    config: Config = None,
    name: Annotated[str | None, typer.Option(help="Registered model.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Publish a copy converted to this dtype, e.g. bfloat16.")] = None,
    run_id: Annotated[str | None, typer.Option(help="The training run; the checkpoint becomes a child of it.")] = None,
    step: Annotated[int | None, typer.Option(help="Optimizer step, where the folder does not say.")] = None,
    merge: Annotated[Path | None, typer.Option(help="FOLDER is a LoRA adapter: merge it into this base first.")] = None,
    code_dir: Annotated[Path, typer.Option(help="Work tree of the training code, for the git commit.")] = Path(),
) -> None:
    """Publish a checkpoint as a model version: files to S3, metrics and lineage to MLflow, the version last."""
    from pipeline import publish_command

    loaded = _load(config, {"registry": {"name": name}, "publish": {"dtype": dtype}})
    options = publish_command.PublishOptions(run_id=run_id, step=step, code_dir=code_dir)
    raise typer.Exit(publish_command.run(folder, settings=loaded, options=options, base=merge))


@app.command()
def watch(
    folder: Annotated[Path, typer.Argument(help="Where trainers write checkpoint-* folders; runs/ of many is fine.")],
    config: Config = None,
    name: Annotated[str | None, typer.Option(help="Registered model.")] = None,
    run_id: Annotated[str | None, typer.Option(help="The training run; checkpoints become children of it.")] = None,
    merge: Annotated[Path | None, typer.Option(help="Merge LoRA adapters into this base model first.")] = None,
    code_dir: Annotated[Path, typer.Option(help="Work tree of the training code, for the git commit.")] = Path(),
    once: Annotated[bool, typer.Option("--once", help="Publish what is there, then end.")] = False,
) -> None:
    """Publish every checkpoint that a trainer writes into a folder, until Ctrl-C."""
    from pipeline.watching import watch as watching
    from registry_hooks import events

    events.configure()
    loaded = _load(config, {"registry": {"name": name}})
    options = watching.WatchOptions(once=once, run_id=run_id, code_dir=code_dir, base=merge)
    raise typer.Exit(watching.run(folder, settings=loaded, options=options))


@app.command()
def serve(
    config: Config = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
) -> None:
    """Serve what the registry's alias names, and follow it."""
    environ = dict(os.environ)
    if port is not None:
        environ["RELAY_SERVE__PORT"] = str(port)
    _become("server", [] if config is None else ["--config", str(config)], environ)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def engine(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
    port: Annotated[int | None, typer.Option(help="Port.")] = None,
) -> None:
    """Serve one checkpoint folder as an OpenAI server, without any registry. Other options go to the engine."""
    on_socket = port is None and any(argument.partition("=")[0] == "--uds" for argument in context.args)
    place = [] if on_socket else ["--port", str(9001 if port is None else port)]
    _become("server.engine", [str(folder), *place, *context.args], dict(os.environ))


@app.command()
def up(config: Config = None) -> None:
    """Run everything on this box: MLflow, an S3 server, the promoter, the server. Ctrl-C stops it all."""
    from pipeline.stack import up as stack_up

    raise typer.Exit(stack_up.run(_load(config)))


@app.command()
def status(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
    check: Annotated[bool, typer.Option("--check", help="For monitors: exit code 3 when something is wrong.")] = False,
    pending: Annotated[Path | None, typer.Option(help="This box's queue of uploads: .relay-pending.")] = None,
) -> None:
    """Say what the alias names and why, what waits, and what each server really serves."""
    from pipeline import status_command

    code = status_command.run(settings=_load(config), as_json=as_json, watch=watch, check=check, pending_dir=pending)
    raise typer.Exit(code)


@app.command()
def doctor(
    config: Config = None,
    role: Annotated[str, typer.Option(help="What this box is for: both, training or inference.")] = "both",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this box: registry, store, memory, disk, ports, keys, packages; each failure with what mends it."""
    from pipeline import doctor_command

    if role not in ("both", "training", "inference"):
        raise UserError(f"--role {role}: a box is for training, inference or both; nothing was checked")
    raise typer.Exit(doctor_command.run(settings=_load(config), role=role, as_json=as_json))  # type: ignore[arg-type]


promotion_commands.register(app)


def main() -> NoReturn:
    """Run a command: exit code 2 for what the user can mend, 1 for what the world did, never a traceback for either."""
    try:
        app()
    except UserError as error:
        _fail(error, 2)
    except RelayError as error:
        _fail(error, 1)
    except ModuleNotFoundError as error:
        _fail(extras.named(error), 2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _load(config: Path | None, overrides: dict[str, dict[str, object]] | None = None) -> Settings:
    return settings.load(config, overrides=overrides or {})


def _become(module: str, arguments: list[str], environ: dict[str, str]) -> NoReturn:
    os.execve(sys.executable, [sys.executable, "-P", "-m", module, *arguments], environ)  # noqa: S606


def _fail(error: RelayError, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command line is the door for messages
    sys.exit(code)
