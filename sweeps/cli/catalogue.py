"""The commands that list what a sweep file can use: `spaces`, `backends` and `metrics`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click
from pydantic import ValidationError

from sweeps.cli.terminal import json_option, print_json, say, show
from sweeps.errors import Problem, UserInputError

if TYPE_CHECKING:
    from backends.plugins import PluginRegistry

_Class = TypeVar("_Class")


@click.command()
@click.argument("name", required=False)
@click.option("--scope", help="A kind of backend, e.g. local. `sweep spaces` lists the scopes.")
@json_option
def spaces(name: str | None, scope: str | None, as_json: bool) -> None:
    """List the named search spaces, or show one of them.

    With --scope, show the recommended ranges of that scope instead.
    """
    from search_spaces import library
    from search_spaces.catalogue import Catalogue
    from sweeps.cli import catalogue_tables

    catalogue = Catalogue.load()
    if scope is not None:
        if scope not in catalogue.scopes():
            raise UserInputError(
                [Problem("--scope", f"unknown scope `{scope}`", f"one of: {', '.join(catalogue.scopes())}")]
            )
        if as_json:
            print_json({name: found.to_json() for name, found in catalogue.for_scope(scope).items()})
        else:
            show(catalogue_tables.recommendations(catalogue, scope))
        return
    if name is not None and name not in library.names():
        raise UserInputError([Problem(name, "unknown search space", f"one of: {', '.join(library.names())}")])
    chosen = [library.load(library_name) for library_name in ([name] if name else library.names())]
    if as_json:
        print_json(
            [{"name": space.name, "description": space.description, "space": dict(space.space)} for space in chosen]
        )
    elif name:
        show(catalogue_tables.space(chosen[0]))
    else:
        show(catalogue_tables.spaces(chosen))
        say(f"recommendations: sweep spaces --scope {{{','.join(catalogue.scopes())}}}")


@click.command()
@click.argument("name", required=False)
@click.option("--model", help="Describe the backend for this model.")
@json_option
def backends(name: str | None, model: str | None, as_json: bool) -> None:
    """List the installed backends, or the hyperparameters of one."""
    from backends import registry
    from sweeps.cli import catalogue_tables

    if name is None:
        listed = registry.registrations()
        if as_json:
            print_json([asdict(registration) for registration in listed])
        else:
            for registration in listed:
                click.echo(f"{registration.name:12} {registration.distribution} {registration.version}")
            say("next: sweep backends NAME --model MODEL   shows the hyperparameters of a backend")
        return
    backend = _loaded(registry.BACKENDS, name)
    try:
        capabilities = backend.describe(backend.options_model.model_validate({"model": model} if model else {}))
    except ValidationError as error:
        hint = f"Give --model. The backend's options: {', '.join(backend.options_model.model_fields)}"
        raise UserInputError([Problem(name, "this backend cannot be described without a model", hint)]) from error
    if as_json:
        print_json(asdict(capabilities))
    else:
        show(catalogue_tables.backend(capabilities))


@click.command()
@click.argument("name", required=False)
@json_option
def metrics(name: str | None, as_json: bool) -> None:
    """List the task metrics for generated texts, or the options of one."""
    from backends.metrics import registry

    if name is None:
        listed = registry.registrations()
        if as_json:
            print_json([asdict(registration) for registration in listed])
            return
        for registration in listed:
            try:
                about = _about(registry.load(registration.name))
            except registry.RegistryError as error:
                about = error.message
            click.echo(f"{registration.name:16} {about}")
        say("next: sweep metrics NAME   shows the options of a metric")
        return
    metric = _loaded(registry.METRICS, name)
    schema = metric.options_model.model_json_schema()
    if as_json:
        print_json(schema)
        return
    click.echo(f"{name}: {_about(metric)}")
    for option, description in schema.get("properties", {}).items():
        default = f" (default {json.dumps(description['default'])})" if "default" in description else ""
        click.echo(f"  {option:20} {description.get('description', '')}{default}")


def _loaded(plugins: PluginRegistry[_Class], name: str) -> type[_Class]:
    """Return a registered class. Raises UserInputError."""
    from backends.plugins import RegistryError

    try:
        return plugins.load(name)
    except RegistryError as error:
        raise UserInputError([Problem(name, error.message, error.hint)]) from error


def _about(described: object) -> str:
    """Return the first sentence of a docstring on one line."""
    paragraph = (described.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(paragraph.split())
