"""200 JSON schemas over the keywords that structured output supports, made by rule: the same ones every time."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
PATTERNS = (
    r"^[a-z]{3,8}$",
    r"^[A-Z]{2}-[0-9]{4}$",
    r"^(red|green|blue)$",
    r"^#[0-9a-f]{6}$",
    r"^\d{3}-\d{4}$",
    r"^[^@ ]{1,10}@[a-z]{2,6}\.(com|org)$",
    r"^v?[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}$",
    r"^\w{2,5}( \w{2,5}){0,2}$",
)
SCALARS: dict[str, Schema] = {
    "string": {"type": "string", "maxLength": 12},
    "integer": {"type": "integer", "minimum": -999, "maximum": 999},
    "number": {"type": "number", "minimum": 0, "maximum": 10},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "enum": {"enum": ["circle", "square", "triangle"]},
    "const": {"const": "fixed"},
}


def closed(properties: Schema, **more: Any) -> Schema:
    """An object with just these properties, all of them required unless `more` says otherwise."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def bounded(items: Schema, most: int = 3, **more: Any) -> Schema:
    """An array of few items."""
    return {"type": "array", "items": items, "maxItems": most, **more}


def make_schemas() -> dict[str, Schema]:
    """The schemas by name."""
    made: dict[str, Schema] = {}
    for family in (
        _scalars,
        _strings,
        _numbers,
        _objects,
        _open_objects,
        _arrays,
        _unions,
        _intersections,
        _references,
        _mixtures,
        _unbounded,
    ):
        for number, schema in enumerate(family()):
            made[f"{family.__name__.strip('_')}-{number}"] = schema
    return made


def _scalars() -> Iterator[Schema]:
    for schema in SCALARS.values():
        yield schema
        yield closed({"value": schema})
    yield {"enum": [1, 2.5, "three", None, True, [1], {"a": 1}]}
    yield {"const": {"deep": [1, {"x": None}]}}
    yield {"type": ["integer", "null"], "minimum": 0, "maximum": 9}
    yield {"type": ["string", "boolean"], "maxLength": 5}


def _strings() -> Iterator[Schema]:
    for pattern in PATTERNS:
        yield {"type": "string", "pattern": pattern}
        yield closed({"code": {"type": "string", "pattern": pattern}})
        yield bounded({"type": "string", "pattern": pattern}, most=2)
    for name in FORMATS:
        yield {"type": "string", "format": name}
        yield closed({"at": {"type": "string", "format": name}})
    for shortest, longest in ((0, 0), (1, 1), (5, 5), (0, 20), (10, 30)):
        yield {"type": "string", "minLength": shortest, "maxLength": longest}
    yield {"enum": ['"quoted"', "back\\slash", "new\nline", "tab\t", "é", "日本", "😀"]}
    yield {"type": "string", "enum": ["a", "ab", "abc"], "minLength": 2}


def _numbers() -> Iterator[Schema]:
    for low, high in ((0, 0), (0, 1), (-5, 5), (1, 100), (1990, 2030), (-1000, -900), (0, 10**9)):
        yield {"type": "integer", "minimum": low, "maximum": high}
        yield {"type": "number", "minimum": low, "maximum": high}
    yield {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10}
    yield {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    yield {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5}
    yield {"type": "integer", "multipleOf": 3, "minimum": 0, "maximum": 30}
    yield {"enum": [1, 2, 3, 5, 8]}
    yield closed({"x": {"type": "number", "minimum": -1.5, "maximum": 1.5}, "n": {"const": 7}})


def _objects() -> Iterator[Schema]:
    names = list(SCALARS)
    for count in range(1, 7):
        chosen = {name: SCALARS[name] for name in names[:count]}
        yield closed(chosen)
        yield closed(chosen, required=names[: count // 2])
        yield closed({"inner": closed(chosen)})
    yield closed({})
    yield closed(
        {"a b": {"type": "boolean"}, 'quo"te': {"type": "null"}, "ключ": {"const": 1}, "": {"type": "boolean"}}
    )
    yield closed({"a": {"type": "boolean"}}, title="Thing", description="A thing.", **{"$schema": DRAFT, "$id": "x:y"})
    nested: Schema = {"type": "boolean"}
    for _ in range(10):
        nested = closed({"in": nested})
    yield nested


DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _open_objects() -> Iterator[Schema]:
    short = {"type": "string", "maxLength": 4}
    yield {"type": "object", "maxProperties": 0}
    yield {
        "type": "object",
        "additionalProperties": {"type": "integer", "maximum": 9, "minimum": 0},
        "maxProperties": 1,
    }
    yield {"type": "object", "additionalProperties": short, "minProperties": 1, "maxProperties": 1}
    yield closed({"a": short}, additionalProperties=True, maxProperties=1)
    yield {
        "type": "object",
        "patternProperties": {"^k[0-9]$": short},
        "additionalProperties": False,
        "maxProperties": 2,
    }
    yield {
        "type": "object",
        "properties": {"id": {"type": "integer", "minimum": 1, "maximum": 99}},
        "patternProperties": {"^x-[a-z]{1,3}$": {"type": "boolean"}},
        "required": ["id"],
        "additionalProperties": False,
        "maxProperties": 2,
    }
    yield closed({"a": short}, additionalProperties={"type": "null"}, maxProperties=2)
    yield {"type": "object", "properties": {"a": short, "b": short}, "minProperties": 1, "additionalProperties": False}
    yield {"type": "object", "properties": {"n": False, "y": {"type": "boolean"}}, "additionalProperties": False}


def _arrays() -> Iterator[Schema]:
    for schema in SCALARS.values():
        yield bounded(schema)
        yield bounded(schema, most=2, minItems=2)
    yield {"type": "array", "maxItems": 0}
    yield {"type": "array", "prefixItems": [{"type": "boolean"}, {"const": "b"}], "items": False, "minItems": 2}
    yield {"type": "array", "prefixItems": [{"const": 1}], "items": {"type": "null"}, "maxItems": 3}
    yield bounded(bounded(SCALARS["integer"], most=2), most=2, minItems=1)
    yield bounded(closed({"x": SCALARS["number"], "y": SCALARS["number"]}), most=2, minItems=1)
    yield closed({"tags": bounded({"enum": ["a", "b", "c"]}), "boxes": bounded(bounded(SCALARS["integer"], 4), 2)})


def _unions() -> Iterator[Schema]:
    names = list(SCALARS)
    for first, second in zip(names, names[1:], strict=False):
        yield {"anyOf": [SCALARS[first], SCALARS[second]]}
        yield closed({"either": {"anyOf": [SCALARS[first], {"type": "null"}]}, "or": SCALARS[second]})
    yield {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}]}
    yield {
        "oneOf": [
            closed({"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}}),
            closed({"kind": {"const": "dog"}, "name": {"type": "string", "maxLength": 8}}),
        ]
    }
    yield {"type": "object", "anyOf": [closed({"a": {"type": "boolean"}}), closed({"b": {"type": "null"}})]}
    yield bounded({"anyOf": [{"const": 1}, {"const": "two"}, bounded({"type": "null"}, 1)]}, most=4)


def _intersections() -> Iterator[Schema]:
    yield {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 30}]}
    yield {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 6}]}
    yield {"allOf": [{"enum": ["a", "b", "c"]}, {"enum": ["b", "c", "d"]}]}
    yield {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"], "maxProperties": 2},
        ]
    }
    yield {"type": "integer", "minimum": 0, "allOf": [{"maximum": 5}]}
    yield {"allOf": [{"type": "number", "minimum": 0}, {"type": "integer", "maximum": 7}]}
    yield {"allOf": [{"$ref": "#/$defs/low"}, {"minimum": 2}], "$defs": {"low": {"type": "integer", "maximum": 4}}}
    yield closed({"a": {"allOf": [{"type": "string", "pattern": "^[a-f]+$"}, {"maxLength": 4, "minLength": 1}]}})


def _references() -> Iterator[Schema]:
    point = closed({"x": SCALARS["integer"], "y": SCALARS["integer"]})
    for count in (1, 2, 3):
        line = {f"p{index}": {"$ref": "#/$defs/point"} for index in range(count)}
        yield closed(line, **{"$defs": {"point": point}})
    yield {"$ref": "#/$defs/point", "$defs": {"point": point}}
    yield {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"type": "boolean"}}, "$ref": "#/$defs/a"}
    yield {
        "definitions": {"tag": {"enum": ["x", "y"]}},
        "type": "array",
        "items": {"$ref": "#/definitions/tag"},
        "maxItems": 2,
    }
    tree = closed({"leaf": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}})
    yield {"$ref": "#/$defs/tree", "$defs": {"tree": tree}}
    yield {
        "$defs": {"a/b": {"type": "null"}, "c~d": {"const": 0}},
        "anyOf": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#/$defs/c~0d"}],
    }
    yield {"$id": "https://x.example/s", "$ref": "#/$defs/t", "$defs": {"t": {"enum": ["t"]}}}
    yield {"$ref": "#middle", "$defs": {"m": {"$anchor": "middle", "type": "boolean"}}}
    yield closed({"v": {"enum": [0, 1]}, "kids": bounded({"$ref": "#"}, most=1)}, required=["v"])


def _mixtures() -> Iterator[Schema]:
    """What applications ask for."""
    box = bounded({"type": "integer", "minimum": 0, "maximum": 1000}, most=4, minItems=4)
    shape = {"enum": ["circle", "square", "triangle", "star"]}
    colour = {"enum": ["red", "green", "blue", "yellow", "black", "white"]}
    yield closed(
        {
            "label": {"type": "string", "maxLength": 16},
            "box": box,
            "score": {"type": "number", "minimum": 0, "maximum": 1},
        }
    )
    yield closed({"objects": bounded(closed({"shape": shape, "colour": colour, "box": box}), most=3)})
    yield closed({"answer": {"enum": ["yes", "no", "unsure"]}, "reason": {"type": "string", "maxLength": 60}})
    yield closed(
        {
            "steps": bounded(closed({"explanation": {"type": "string", "maxLength": 30}}), 3, minItems=1),
            "final": SCALARS["integer"],
        }
    )
    yield closed(
        {
            "name": {"type": "string", "minLength": 1, "maxLength": 20},
            "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150}, {"type": "null"}]},
        }
    )
    yield closed(
        {
            "invoice": {"type": "string", "pattern": "^INV-[0-9]{5}$"},
            "due": {"type": "string", "format": "date"},
            "total": {"type": "number", "minimum": 0, "maximum": 99999},
        }
    )
    yield closed({"table": bounded(bounded({"type": "string", "maxLength": 6}, 2, minItems=2), 3, minItems=1)})
    yield closed({"caption": {"type": "string", "maxLength": 80, "description": "What the picture shows."}})
    boxes = bounded(closed({"shape": shape, "box": box}), most=2)
    yield closed({"question": {"type": "string", "maxLength": 40}, "choices": bounded(colour, 4, minItems=2)})
    yield closed(
        {"counts": closed({name: {"type": "integer", "minimum": 0, "maximum": 20} for name in colour["enum"]})}
    )
    yield closed(
        {"frames": bounded(closed({"second": {"type": "integer", "minimum": 0, "maximum": 60}, "seen": boxes}), 2)}
    )
    yield closed(
        {"position": {"enum": ["left", "right", "top", "bottom"]}, "of": shape, "certain": {"type": "boolean"}}
    )
    yield closed({"text": {"type": "string", "maxLength": 24}, "language": {"type": "string", "pattern": "^[a-z]{2}$"}})
    yield closed(
        {"url": {"type": "string", "pattern": r"^https://[a-z]{1,10}\.example/[a-z0-9]{0,8}$"}, "ok": {"const": True}}
    )
    yield closed({"call": closed({"name": {"const": "zoom"}, "arguments": closed({"factor": {"enum": [1, 2, 4]}})})})


def _unbounded() -> Iterator[Schema]:
    """What nothing but the model brings to an end."""
    yield {"type": "string"}
    yield {"type": "integer"}
    yield {"type": "number"}
    yield {"type": "object"}
    yield {"type": "array", "items": {"type": "boolean"}}
    yield closed({"name": {"type": "string"}, "count": {"type": "integer"}})
    yield {"type": "object", "properties": {"colour": {"type": "string"}}, "required": ["colour"]}
    yield closed({"shapes": {"type": "array", "items": {"type": "string"}}})
    yield {"type": "object", "additionalProperties": {"type": "number"}}
    yield {}
