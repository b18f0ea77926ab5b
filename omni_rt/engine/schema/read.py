"""A tool's JSON schema, read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import unquote

from omni_rt.engine.schema.judge import apart
from omni_rt.engine.schema.meet import meet, with_pattern
from omni_rt.engine.schema.pattern import PatternRefused, read_pattern
from omni_rt.engine.schema.shapes import (
    ANY,
    UNSAID,
    Array,
    Boolean,
    Const,
    Null,
    Number,
    Object,
    Reference,
    SchemaRefused,
    Shape,
    Shapes,
    String,
    exact,
    key_of,
)

# What a schema may say and no grammar can hold to.
_UNKNOWN = frozenset(
    (
        *("not", "if", "then", "else", "dependentRequired", "dependentSchemas", "dependencies", "contains"),
        *("unevaluatedItems", "$dynamicRef", "$recursiveRef"),
    )
)
_NUMBERS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
_STRINGS = frozenset(("minLength", "maxLength", "pattern", "format"))
_ARRAYS = frozenset(("items", "prefixItems", "minItems", "maxItems", "uniqueItems"))
_OBJECTS = frozenset(
    (
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties"),
    )
)
# Schemas within a schema that are read, each place once for each way to it.
_MOST_READ = 4000


class Reading:
    """Reads one document. `shapes` has what its references say, by name."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._read = 0
        self._names: dict[str, str] = {}
        self.shapes: dict[str, Shapes | None] = {}

    def all(self) -> Shapes:
        """The whole document. Raises SchemaRefused."""
        return self.read(self._document, "")

    def look(self, reference: Reference) -> Shapes | None:
        return self.shapes[reference.name]

    def read(self, schema: Any, place: str) -> Shapes:
        """What a schema at some place says. Raises SchemaRefused."""
        self._read += 1
        if self._read > _MOST_READ:
            raise SchemaRefused(place, f"more than {_MOST_READ} schemas are within it")
        if isinstance(schema, bool):
            return ANY if schema else ()
        if not isinstance(schema, Mapping):
            raise SchemaRefused(place, f"{schema!r:.60} is no JSON schema")
        for keyword in sorted(_UNKNOWN & schema.keys()):
            raise SchemaRefused(_in(place, keyword), "no grammar can hold to this keyword")
        shapes = self._own(schema, place)
        if "$ref" in schema:
            shapes = self._meet(shapes, (self._reference(schema["$ref"], _in(place, "$ref")),), place)
        if "const" in schema:
            shapes = self._meet(shapes, (_const(schema["const"], _in(place, "const")),), place)
        if "enum" in schema:
            values = {key_of(value): value for value in _list(schema, "enum", place)}
            consts = tuple(_const(value, _in(place, "enum")) for value in values.values())
            shapes = self._meet(shapes, consts, place)
        for number, one in enumerate(_list(schema, "allOf", place)):
            shapes = self._meet(shapes, self.read(one, f"{_in(place, 'allOf')}[{number}]"), place)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                shapes = self._meet(shapes, self._options(schema, keyword, place), place)
        if "unevaluatedProperties" in schema:
            shapes = self._closed(shapes, schema["unevaluatedProperties"], _in(place, "unevaluatedProperties"))
        return shapes

    def _closed(self, shapes: Shapes, said: Any, place: str) -> Shapes:
        """With no properties but those that something was said of."""
        if said is not False:
            raise SchemaRefused(place, "no grammar can hold to this keyword, unless it is false")
        if any(isinstance(shape, Reference) for shape in shapes):
            shapes = self._meet(shapes, UNSAID, place)
        return tuple(
            replace(shape, extra=()) if isinstance(shape, Object) and shape.extra is None else shape for shape in shapes
        )

    def _meet(self, left: Shapes, right: Shapes, place: str) -> Shapes:
        return meet(left, right, self.look, place)

    def _options(self, schema: Mapping[str, Any], keyword: str, place: str) -> Shapes:
        here = _in(place, keyword)
        options = [self.read(one, f"{here}[{number}]") for number, one in enumerate(_list(schema, keyword, place))]
        if keyword == "oneOf":
            for second, shapes in enumerate(options):
                for first in range(second):
                    if not apart(options[first], shapes, self.look):
                        raise SchemaRefused(
                            here,
                            f"it cannot be told that what fits [{first}] does not fit [{second}]; "
                            "use anyOf, or a property whose const differs",
                        )
        return tuple(shape for shapes in options for shape in shapes)

    def _reference(self, pointer: Any, place: str) -> Reference:
        if not isinstance(pointer, str) or not (pointer == "#" or pointer.startswith("#/")):
            raise SchemaRefused(place, f"{pointer!r:.80} is not a place within the schema, as '#/$defs/name' is")
        name = self._names.get(pointer)
        if name is None:
            name = self._names[pointer] = f"{len(self._names)}"
            self.shapes[name] = None
            self.shapes[name] = self.read(self._find(pointer, place), place)
            if self._leads_back(name):
                raise SchemaRefused(place, f"{pointer!r:.80} says of itself what it is")
        return Reference(name)

    def _leads_back(self, name: str) -> bool:
        """Whether references alone lead from it to itself."""
        seen, ahead = set[str](), [name]
        while ahead:
            for shape in self.shapes[ahead.pop()] or ():
                if isinstance(shape, Reference) and shape.name not in seen:
                    seen.add(shape.name)
                    ahead.append(shape.name)
        return name in seen

    def _find(self, pointer: str, place: str) -> Any:
        found: Any = self._document
        for step in pointer.split("/")[1:]:
            step = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                raise SchemaRefused(place, f"there is nothing at {pointer!r:.80}")
        return found

    def _own(self, schema: Mapping[str, Any], place: str) -> Shapes:
        """What it says of types, and of values by their type."""
        makers: dict[str, Callable[[], Shape]] = {
            "null": Null,
            "boolean": Boolean,
            "integer": partial(_number, schema, place, integer=True),
            "number": partial(_number, schema, place, integer=False),
            "string": partial(_string, schema, place),
            "array": partial(self._array, schema, place),
            "object": partial(self._object, schema, place),
        }
        named = schema.get("type")
        if named is not None:
            kinds = named if isinstance(named, list) else [named]
            if not kinds or not all(isinstance(kind, str) and kind in makers for kind in kinds):
                raise SchemaRefused(_in(place, "type"), f"{named!r:.60} is no type of a JSON schema")
            kinds = list(dict.fromkeys(kinds))
            if "number" in kinds:
                kinds = [kind for kind in kinds if kind != "integer"]
            return tuple(makers[kind]() for kind in kinds)
        of_types = {"number": _NUMBERS, "string": _STRINGS, "array": _ARRAYS, "object": _OBJECTS}
        said = [kind for kind, keywords in of_types.items() if keywords & schema.keys()]
        if not said:
            return ANY
        made = [makers[kind]() for kind in said]
        return (*made, *(shape for shape in UNSAID if type(shape) not in {type(one) for one in made}))

    def _array(self, schema: Mapping[str, Any], place: str) -> Array:
        prefix = _list(schema, "prefixItems", place)
        return Array(
            tuple(self.read(one, f"{_in(place, 'prefixItems')}[{number}]") for number, one in enumerate(prefix)),
            self.read(schema.get("items", True), _in(place, "items")),
            _count(schema, "minItems", place) or 0,
            _count(schema, "maxItems", place),
            _flag(schema, "uniqueItems", place),
        )

    def _object(self, schema: Mapping[str, Any], place: str) -> Object:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, Mapping):
            raise SchemaRefused(_in(place, "properties"), "it must map names to schemas")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise SchemaRefused(_in(place, "required"), "it must be a list of names")
        extra = None
        if "additionalProperties" in schema:
            extra = self.read(schema["additionalProperties"], _in(place, "additionalProperties"))
        names = None
        if "propertyNames" in schema:
            names = self._meet(self.read(schema["propertyNames"], _in(place, "propertyNames")), (String(),), place)
        shape = Object(
            {name: self.read(one, _in(place, "properties", name)) for name, one in properties.items()},
            tuple(dict.fromkeys(required)),
            extra,
            None,
            names,
            _count(schema, "minProperties", place) or 0,
            _count(schema, "maxProperties", place),
        )
        patterns = schema.get("patternProperties", {})
        if not isinstance(patterns, Mapping) or len(patterns) > 1:
            raise SchemaRefused(_in(place, "patternProperties"), "it must map one pattern to a schema")
        for pattern, one in patterns.items():
            here = _in(place, "patternProperties", pattern)
            shape = with_pattern(shape, _pattern(pattern, here), self.read(one, here), self.look, place)
        return shape


def _in(place: str, *steps: str) -> str:
    return ".".join((*([place] if place else []), *steps))


def _const(value: Any, place: str) -> Const:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > 2**53:
        raise SchemaRefused(place, f"{value} is beyond what numbers of JSON hold exactly")
    return Const(value)


def _number(schema: Mapping[str, Any], place: str, integer: bool) -> Number:
    shape = Number(integer)
    for keyword in sorted(_NUMBERS & schema.keys()):
        value = schema[keyword]
        if isinstance(value, bool):  # of drafts before the sixth
            raise SchemaRefused(_in(place, keyword), "it must be a number")
        if not isinstance(value, int | float) or value in (float("inf"), float("-inf")) or value != value:
            raise SchemaRefused(_in(place, keyword), "it must be a number")
        bound = exact(value)
        if keyword == "multipleOf":
            if bound <= 0:
                raise SchemaRefused(_in(place, keyword), "it must be more than 0")
            shape = replace(shape, multiple=bound)
        elif keyword.lower().endswith("minimum"):
            is_open = keyword.startswith("exclusive")
            if shape.low is None or (bound, is_open) > (shape.low, shape.low_open):
                shape = replace(shape, low=bound, low_open=is_open)
        else:
            is_open = keyword.startswith("exclusive")
            if shape.high is None or (-bound, is_open) > (-shape.high, shape.high_open):
                shape = replace(shape, high=bound, high_open=is_open)
    return shape


def _string(schema: Mapping[str, Any], place: str) -> String:
    patterns = (_pattern(schema["pattern"], _in(place, "pattern")),) if "pattern" in schema else ()
    form = schema.get("format")
    if form is not None and not isinstance(form, str):
        raise SchemaRefused(_in(place, "format"), "it must be a name")
    return String(
        _count(schema, "minLength", place) or 0,
        _count(schema, "maxLength", place),
        patterns,
        () if form is None else (form,),
    )


def _pattern(pattern: Any, place: str) -> str:
    if not isinstance(pattern, str):
        raise SchemaRefused(place, "it must be a regular expression")
    try:
        return read_pattern(pattern)
    except PatternRefused as error:
        raise SchemaRefused(place, f"no grammar can be made of this regular expression: {error}") from error


def _list(schema: Mapping[str, Any], keyword: str, place: str) -> list[Any]:
    found = schema.get(keyword, [])
    if not isinstance(found, list) or (keyword in schema and not found):
        raise SchemaRefused(_in(place, keyword), "it must be a list, and not an empty one")
    return found


def _count(schema: Mapping[str, Any], keyword: str, place: str) -> int | None:
    found = schema.get(keyword)
    if found is None and keyword not in schema:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 0 or found != int(found):
        raise SchemaRefused(_in(place, keyword), f"{found!r:.60} is no count")
    return int(found)


def _flag(schema: Mapping[str, Any], keyword: str, place: str) -> bool:
    found = schema.get(keyword, False)
    if not isinstance(found, bool):
        raise SchemaRefused(_in(place, keyword), "it must be true or false")
    return found
