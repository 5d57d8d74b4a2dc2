"""Each field that the SDK's types of a request have, at any depth and with each literal, as a pair of values: one with
the field and one without it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

MISSING: Any = object()
_SAMPLES: dict[object, Any] = {str: "x", int: 1, float: 0.5, bool: True, object: {"type": "object"}}


@dataclass(frozen=True)
class Field:
    """name: the type that has it, the field and, where it is one of several, the literal. path: where it is, without
    places in lists. without: MISSING where it must be there, so that there is nothing to compare with."""

    name: str
    path: str
    value: Any
    without: Any


class Walk:
    """samples: values by name of type and field, where a made-up one would not do. also: what a value of a type needs
    besides its required fields. instead: fields by what they stand in for."""

    def __init__(self, samples: dict[str, Any], also: dict[str, dict[str, Any]], instead: dict[str, str]) -> None:
        self._samples = samples
        self._also = also
        self._instead = instead

    def fields(self, kind: Any, path: str = "") -> Iterator[Field]:
        """The fields of an object and of all that is in it."""
        whole, hints = self._least(kind), get_type_hints(kind)
        for field, hint in hints.items():
            name, at = f"{kind.__name__}.{field}", f"{path}.{field}".lstrip(".")
            rest = {key: value for key, value in whole.items() if key not in (field, self._instead.get(name))}
            is_needed = field in whole or name in self._instead
            without = MISSING if is_needed else rest
            values = [(name, self._samples[name])] if name in self._samples else list(_leaves(hint, name))
            for leaf, value in values:
                yield Field(leaf, at, {**rest, field: value}, without)
            for inner in self._inside(hint, at) if name not in self._samples else ():
                outer = MISSING if inner.without is MISSING else {**rest, field: inner.without}
                yield Field(inner.name, inner.path, {**rest, field: inner.value}, outer)

    def _inside(self, hint: Any, path: str) -> Iterator[Field]:
        """The fields of the objects that a hint allows."""
        if is_typeddict(hint):
            yield from self.fields(hint, path)
        elif _is_union(hint):
            for arm in get_args(hint):
                yield from self._inside(arm, path)
        elif _is_list(hint):
            for one in self._inside(get_args(hint)[0], path):
                yield Field(one.name, one.path, [one.value], MISSING if one.without is MISSING else [one.without])

    def _least(self, kind: Any) -> dict[str, Any]:
        hints = get_type_hints(kind)
        made = {field: self._samples.get(f"{kind.__name__}.{field}", MISSING) for field in _required(kind)}
        filled = {field: self._any(hints[field]) if value is MISSING else value for field, value in made.items()}
        return filled | self._also.get(kind.__name__, {})

    def _any(self, hint: Any) -> Any:
        """Some value of a type."""
        if is_typeddict(hint):
            return self._least(hint)
        if _is_union(hint):
            return self._any(get_args(hint)[0])
        if _is_list(hint):
            return [self._any(get_args(hint)[0])]
        return next(value for _, value in _leaves(hint, ""))


def _leaves(hint: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values of a hint that are no objects with fields of their own."""
    if _is_union(hint):
        for arm in get_args(hint):
            yield from _leaves(arm, name)
    elif get_origin(hint) is Literal:
        values = get_args(hint)
        yield from ((f"{name}={value}" if len(values) > 1 else name, value) for value in values)
    elif _is_list(hint):
        yield from ((leaf, [value]) for leaf, value in _leaves(get_args(hint)[0], name))
    elif get_origin(hint) is dict:
        yield name, {"1": _SAMPLES.get(get_args(hint)[1], "x")}
    elif hint in _SAMPLES:
        yield name, _SAMPLES[hint]


def _required(kind: Any) -> set[str]:
    hints = get_type_hints(kind, include_extras=True)
    origins = {field: get_origin(hint) for field, hint in hints.items()}
    return {f for f, origin in origins.items() if origin is Required or (kind.__total__ and origin is not NotRequired)}


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is Union


def _is_list(hint: Any) -> bool:
    origin = get_origin(hint)
    return origin is not None and origin not in (Literal, Union, dict) and len(get_args(hint)) == 1
