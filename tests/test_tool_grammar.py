"""Tools of the local engine: whatever is chosen under the grammar is a call whose arguments fit the tool's schema."""

from __future__ import annotations

import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from omni_rt.engine.api import EngineError, Tool
from omni_rt.engine.local.tools import CallReader, grammar
from omni_rt.engine.schema.formats import FORMATS
from omni_rt.engine.schema.pattern import PatternRefused, compiled, read_pattern
from omni_rt.engine.tool_schema import UnenforceableTool, check_enforceable
from tests.support.llguidance import Matcher, choose

Schema = dict[str, Any]


def tool(schema: Schema) -> Tool:
    return Tool("f", "", schema)


def called(schema: Schema, seed: int) -> Any:
    """The arguments of a call that is chosen by chance."""
    reader = CallReader([tool(schema)], watching=False)
    text = choose(grammar([tool(schema)], "required"), seed)
    assert reader.feed(text) == ""
    assert reader.calls, text
    assert not reader.unfinished, text
    for _, arguments in reader.calls:
        jsonschema.validate(json.loads(arguments), schema, jsonschema.Draft202012Validator)
    return json.loads(reader.calls[0][1])


# -- random schemas

NAMES = st.sampled_from(["a", "b", "city", "é x", 'qu"ote', "\u0007"])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-30, 30),
    st.sampled_from([0.5, -2.25, 3.0]),
    st.sampled_from(["", "a", 'é"\n']),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=3
)
BOUNDS = st.integers(-120, 120) | st.sampled_from([0.5, -0.25, 12.125, 1e-6, 1e20, -1e20])
PATTERNS = st.sampled_from(
    [
        "^[a-z]{2,4}$",
        "^\\d+$",
        "b",
        "^(red|green)-\\w+$",
        "^\\W\\S\\D$",
        "[^a-z\\s]",
        "^a?$|^b+$",
        "\\.",
        "^[\\w.-]+@x$",
    ]
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional=fields)


NUMBERS = st.builds(
    lambda kind, fields: {"type": kind, **fields},
    st.sampled_from(["integer", "number", ["number", "null"]]),
    optional(
        minimum=BOUNDS,
        maximum=BOUNDS,
        exclusiveMinimum=BOUNDS,
        exclusiveMaximum=BOUNDS,
        multipleOf=st.sampled_from([1, 2, 7, 0.5, 0.25, 2.5]),
    ),
)
STRINGS = st.builds(
    lambda fields: {"type": "string", **fields},
    st.one_of(
        optional(minLength=st.integers(0, 4), maxLength=st.integers(0, 6)),
        optional(pattern=PATTERNS),
        optional(format=st.sampled_from([*FORMATS, "password", "int32"])),
    ),
)
LEAVES = st.one_of(
    NUMBERS,
    STRINGS,
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"type": ["string", "integer"]}, True, {}, {"description": "d"}]
    ),
    st.builds(lambda value: {"const": value}, VALUES),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1, max_size=3)),
    st.sampled_from([{"$ref": "#/$defs/node"}, {"$ref": "#/$defs/leaf"}, {"$ref": "#/definitions/pair"}]),
    optional(minimum=st.integers(-9, 9), maxLength=st.integers(0, 5), type=st.sampled_from(["string", "number"])),
)


def _object(fields: Schema) -> Schema:
    """The validator takes what additionalProperties allow for unevaluated."""
    if "additionalProperties" in fields:
        fields.pop("unevaluatedProperties", None)
    return {"type": "object", **fields}


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.builds(
        _object,
        optional(
            properties=st.dictionaries(NAMES, inner, max_size=3),
            required=st.lists(NAMES, max_size=2, unique=True),
            additionalProperties=inner | st.booleans(),
            patternProperties=st.dictionaries(st.sampled_from(["^a", "^x-\\d$", "y"]), inner, max_size=1),
            minProperties=st.integers(0, 2),
            maxProperties=st.integers(0, 3),
            propertyNames=st.sampled_from([{"pattern": "^[a-c]+$"}, {"enum": ["a", "b"]}, {"maxLength": 4}]),
            unevaluatedProperties=st.just(False),
        ),
    )


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.builds(
        lambda fields: {"type": "array", **fields},
        optional(
            items=inner | st.just(False),
            prefixItems=st.lists(inner, min_size=1, max_size=2),
            minItems=st.integers(0, 2),
            maxItems=st.integers(0, 3),
            uniqueItems=st.booleans(),
        ),
    )


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    options = st.lists(inner, min_size=1, max_size=3)
    return st.builds(
        lambda kind, options, beside: {**beside, kind: options},
        st.sampled_from(["anyOf", "oneOf", "allOf"]),
        options,
        optional(type=st.sampled_from(["object", "string", "integer"]), minimum=st.integers(0, 3)),
    )


NESTED = st.recursive(LEAVES, lambda inner: objects(inner) | arrays(inner) | combined(inner), max_leaves=6)
NODE: Schema = {
    "type": "object",
    "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["value", "next"],
}


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    root = draw(objects(NESTED) | st.builds(lambda one: {"type": "object", "allOf": [one]}, combined(objects(NESTED))))
    pair = {"type": "array", "prefixItems": [draw(LEAVES), {"type": "null"}], "items": False, "minItems": 2}
    return {**root, "$defs": {"node": NODE, "leaf": draw(LEAVES)}, "definitions": {"pair": pair}}


@given(schemas(), st.integers(0, 2**32))
@settings(max_examples=300)
def test_what_is_chosen_fits(schema: Schema, seed: int) -> None:
    try:
        check_enforceable([tool(schema)])
    except UnenforceableTool:
        event("refused")
        return
    event("enforced")
    called(schema, seed)


# -- what schemas are made of, one by one


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "integer", "minimum": -2, "exclusiveMaximum": 3}, [-2, 0, 2], [-3, 3, 1.5, "1", None]),
        ({"type": "integer", "multipleOf": 7}, [0, 14, -7], [1, 13, -13]),
        ({"type": "integer", "maximum": -5, "multipleOf": 7}, [-7, -21], [0, 7, -6]),
        ({"type": "number", "minimum": 0.5, "maximum": 1}, [0.5, 0.75, 1], [0.49, 1.01, True]),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.5}, [0.25, 0.499], [0, -0.0, 0.0, 0.5]),
        ({"type": "number", "multipleOf": 0.25, "maximum": 1}, [-0.5, 0, 0.75], [-0.3, 0.3, 1.25]),
        ({"type": ["string", "null"], "maxLength": 2}, ["", "é€", None], ["abc", 1]),
        ({"type": "string", "pattern": "^[a-c]{2}$"}, ["ab"], ["a", "abc", "xa"]),
        ({"type": "string", "pattern": "^a", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "ba", "abcd"]),
        ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-13-01", "tomorrow"]),
        ({"enum": ["a", 2, None, {"b": [True]}]}, ["a", 2, None, {"b": [True]}], ["b", 3, {"b": [False]}]),
        ({"const": 'say "é"\n'}, ['say "é"\n'], ["say"]),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2}, [[True]], [[], [1]]),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": False}, [[None], []], [[1], [None, None]]),
        ({"allOf": [{"type": "array", "prefixItems": [False]}, {"items": {"type": "null"}}]}, [[]], [[None]]),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}, [[], ["a", "c"]], [["a", "a"]]),
        ({"type": "object", "properties": {"a": {"type": "null"}}}, [{}, {"a": None}], [{"a": 1}, {"b": 1}]),
        (
            {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "boolean"}},
            [{"a": None, "b": True}, {"b": False}],
            [{"a": True}, {"b": None}],
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1, "y": 2}], [{"x": "1"}]),
        ({"type": "object", "patternProperties": {"^x": {"type": "null"}}}, [{"x1": None}], [{"x1": 1}]),
        (
            {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "null"}, "b": True}}]},
            [{"a": None}, {"a": None, "b": [1]}],
            [{}, {"a": 1}, {"b": 1}],
        ),
        ({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 5}]}, [None, 5], [4, "5"]),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}, {"const": "x"}]}, [None, 5, "x"], ["y", 0.5]),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"kind": {"const": kind}, kind: True}, "required": ["kind", kind]}
                    for kind in ("car", "bus")
                ]
            },
            [{"kind": "car", "car": 1}, {"kind": "bus", "bus": None}],
            [{"kind": "car"}, {"kind": "car", "bus": 1}],
        ),
        (True, [None, 1.5e3, "x", [1, {"a": []}]], []),
    ],
)
def test_keywords(schema: Any, valid: list[Any], invalid: list[Any]) -> None:
    """What can be said, and what can't: both are the schema's, as the validator says of some of them."""
    whole = {"type": "object", "properties": {"x": schema}, "required": ["x"]}
    rules = grammar([tool(whole)], "required")
    for value in valid:
        jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
    for value, fits in [*((value, True) for value in valid), *((value, False) for value in invalid)]:
        text = json.dumps({"name": "f", "arguments": {"x": value}}, ensure_ascii=False)
        assert Matcher(rules).takes(text) == fits, value


PARTS = (0, 0.125, 0.25, 0.3, 0.5, 0.75, 0.9)
ENDS = st.sampled_from([-10, -9, -8.5, -1, -0.5, -0.25, 0, 0.125, 0.5, 1, 1.5, 9, 9.5, 10, 99.75, 100, 1000])
IN_BETWEEN = sorted(
    {sign * (whole + part) for sign in (1, -1) for whole in (0, 1, 8, 9, 10, 99, 100, 999) for part in PARTS}
)


@given(ENDS, ENDS, st.booleans(), st.booleans(), st.sampled_from([None, 0.25, 0.5, 3]))
@settings(max_examples=30)
def test_bounds_of_numbers(low: float, high: float, low_open: bool, high_open: bool, step: float | None) -> None:
    said: Schema = {"type": "number", "exclusiveMinimum" if low_open else "minimum": low}
    said |= {"exclusiveMaximum" if high_open else "maximum": high} | ({"multipleOf": step} if step else {})
    validator = jsonschema.Draft202012Validator(said)
    try:
        rules = grammar([tool({"type": "object", "properties": {"x": said}, "required": ["x"]})], "required")
    except UnenforceableTool:
        assert not any(map(validator.is_valid, IN_BETWEEN))
        return
    for value in IN_BETWEEN:
        taken = Matcher(rules).takes(f'{{"name": "f", "arguments": {{"x": {value:g}}}}}')
        if taken or not step:  # multiples may have to be written with more digits, and of negative ones there are few
            assert taken == validator.is_valid(value), value


TREE: Schema = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/tree"}},
    "required": ["root"],
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "name": {"$ref": "#/$defs/na~1me"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
            },
            "required": ["name", "children"],
        },
        "na/me": {"type": "string", "maxLength": 3},
    },
}


def test_a_schema_that_holds_itself() -> None:
    value = {"root": {"name": "a", "children": [{"name": "b", "children": []}, {"name": "c", "children": []}]}}
    rules = grammar([tool(TREE)], "required")
    assert Matcher(rules).takes(json.dumps({"name": "f", "arguments": value}))
    value["root"]["children"][1]["name"] = "too long"  # type: ignore[index]
    assert not Matcher(rules).takes(json.dumps({"name": "f", "arguments": value}))
    for seed in range(20):
        called(TREE, seed)


def test_each_tool_has_its_own_definitions() -> None:
    tools = [
        Tool(kind, "", {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": kind}}})
        for kind in ("integer", "null")
    ]
    rules = grammar(tools, "required")
    assert Matcher(rules).takes('{"name": "integer", "arguments": {"x": 3}}')
    assert not Matcher(rules).takes('{"name": "null", "arguments": {"x": 3}}')
    assert Matcher(rules).takes('{"name": "null", "arguments": {"x": null}}')


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": {"x": {"not": {"type": "null"}}}}, "properties.x.not"),
        ({"if": {}, "then": {}}, "if"),
        ({"properties": {"x": {"type": "array", "contains": True}}}, "properties.x.contains"),
        ({"properties": {"x": {"type": "string", "pattern": "^(?=a)"}}}, "properties.x.pattern"),
        ({"properties": {"x": {"type": "string", "pattern": "(a"}}}, "properties.x.pattern"),
        ({"properties": {"x": {"$ref": "#/$defs/none"}}}, "properties.x.$ref"),
        ({"properties": {"x": {"$ref": "https://example.com/schema"}}}, "properties.x.$ref"),
        ({"properties": {"x": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}}, "properties.x.oneOf"),
        ({"properties": {"x": {"oneOf": [{"type": "object"}, {"type": "object"}]}}}, "properties.x.oneOf"),
        ({"properties": {"x": {"type": "array", "minItems": -1}}}, "properties.x.minItems"),
        ({"patternProperties": {"a": True, "b": True}}, "patternProperties"),
        ({"$defs": {"x": {"$ref": "#/$defs/x"}}, "properties": {"x": {"$ref": "#/$defs/x"}}}, "properties.x.$ref"),
        ({"properties": {"x": {"const": 2**60}}}, "properties.x.const"),
        ({"properties": {"x": False}, "required": ["x"]}, "nothing is valid"),
        (
            {"properties": {"x": {"type": "string", "minLength": 3, "maxLength": 2}}, "required": ["x"]},
            "nothing is valid",
        ),
        ({"properties": {"x": {"type": "integer", "minimum": 1.2, "maximum": 1.8}}, "required": ["x"]}, "nothing"),
        (
            {"properties": {"x": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "minItems": 2}}},
            "unique",
        ),
        (
            {
                "properties": {"x": {"$ref": "#/$defs/x"}},
                "required": ["x"],
                "$defs": {"x": {"type": "object", "properties": {"x": {"$ref": "#/$defs/x"}}, "required": ["x"]}},
            },
            "nothing is valid",
        ),
        ({"allOf": [{"anyOf": [{"minimum": n} for n in range(17)]} for _ in range(3)]}, "alternatives"),
    ],
)
def test_what_cannot_be_enforced_is_named(schema: Schema, place: str) -> None:
    tools = [Tool("fine"), Tool("odd", "", {"type": "object", **schema})]
    with pytest.raises(UnenforceableTool) as refused:
        check_enforceable(tools)
    assert str(refused.value).startswith("tools[1].parameters of 'odd' cannot be enforced: ")
    assert place in str(refused.value)
    assert (refused.value.code, refused.value.number) == ("tool_schema", 1)
    with pytest.raises(EngineError, match="odd"):
        grammar(tools, "auto")


# -- patterns and formats

ATOMS = st.sampled_from(
    ["a", "\\d", "\\w", "\\s", "\\D", "\\W", "\\S", ".", "[^a-c]", "[\\w.-]", "[^\\w\\s]", "é", "\\.", "\\/", " "]
)
REPEATED = st.builds(str.__add__, ATOMS, st.sampled_from(["", "", "?", "{2}", "{1,3}", "{0,2}?"]))
SEQUENCES = st.lists(REPEATED, min_size=1, max_size=4).map("".join)
GROUPED = st.builds("({}|{}){}".format, SEQUENCES, SEQUENCES, st.sampled_from(["", "?", "{2}"])) | SEQUENCES


@given(GROUPED, st.integers(0, 2**32))
@settings(max_examples=100)
def test_what_is_chosen_has_the_pattern(pattern: str, seed: int) -> None:
    pattern = f"^{pattern}$"
    said = {"type": "string", "pattern": pattern}
    text = called({"type": "object", "properties": {"x": said}, "required": ["x"]}, seed)["x"]
    assert re.search(pattern, text)
    assert compiled(read_pattern(pattern)).search(text)


@pytest.mark.parametrize(
    "pattern",
    ["a**", "[]", "(", "a)", "(?!a)", "\\1", "\\p{L}", "a\\b", "x^", "$x", "[z-a]", "a{3,1}", "a{9999}", "\\ud800"],
)
def test_patterns_outside_of_the_common_part_are_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused):
        read_pattern(pattern)


CHECKS: dict[str, Callable[[str], Any]] = {
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "date-time": datetime.fromisoformat,
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "uuid": uuid.UUID,
    "uri": lambda text: urlsplit(text).port,
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string", "format": name}}, "required": ["x"]}
    for seed in range(15):
        text = called(schema, seed)["x"]
        CHECKS.get(name, compiled(FORMATS[name]).fullmatch)(text)
        assert compiled(FORMATS[name]).search(text)


# -- the reader of calls


def test_numbers_that_python_cannot_hold_stay_as_they_were_written() -> None:
    reader = CallReader([tool({"type": "object", "properties": {"x": {"type": "number"}}})])
    text = '{"name": "f", "arguments": {"x": 1e999}}'
    assert Matcher(grammar(reader.tools, "required")).takes(text)
    reader.feed(text)
    assert reader.calls == [("f", '{"x": 1e999}')]


def test_there_is_no_space_without_end() -> None:
    rules = grammar([tool({"type": "object", "properties": {"x": {"type": "null"}}})], "required")
    assert Matcher(rules).takes('{"name": "f", "arguments": {"x": null}}')
    assert not Matcher(rules).takes('{"name": "f", "arguments": {"x":  null}}')
