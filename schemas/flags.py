"""Command-line flags made from a settings class, so that flag, environment variable and default are written once.

The field `max_queue` is the flag `--max-queue` and the variable `GLIMPSED_MAX_QUEUE`; a flag goes before a variable.
A tuple is a flag that may be repeated and a variable with commas. Reads nothing itself.
"""

import argparse
from collections.abc import Collection
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

ENV_PREFIX = "GLIMPSED_"


class ConfigError(Exception):
    """A setting cannot be used; the message is one line that names it."""


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2; takes no abbreviated flags."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""A repeatable flag; needs pydantic-settings' NoDecode beside it, which would parse JSON otherwise."""

Settings = TypeVar("Settings", bound=BaseModel)


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser, settings: type[BaseModel], skip: Collection[str] = ()) -> None:
    """A flag for each field but those in `skip`. Values stay strings (None: not given) until `load` checks them."""
    for name, info in settings.model_fields.items():
        if name in skip:
            continue
        text = (info.description or "").replace("%", "%%")
        if info.annotation is bool:
            parser.add_argument(flag_of(name), dest=name, action="store_true", default=None, help=_help(text, None))
            continue
        is_repeatable = isinstance(info.default, tuple)
        parser.add_argument(
            flag_of(name),
            dest=name,
            action="append" if is_repeatable else "store",
            default=None,
            metavar=(info.title or "VALUE").upper(),
            help=_help(text + (" (repeatable)" if is_repeatable else ""), info.default or None),
        )


def load(settings: type[Settings], arguments: argparse.Namespace) -> Settings:
    """The settings from parsed flags and the environment. Raises ConfigError."""
    given = {
        name: value for name in settings.model_fields if (value := getattr(arguments, name, None)) not in (None, [])
    }
    try:
        return settings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        key = flag_of(name) if name in given else ENV_PREFIX + name.upper()
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{key}: {reason}" if name else reason) from None


def _help(text: str, default: object) -> str:
    return f"{text} (default: {default})" if default is not None else text
