"""As much of JSON Schema 2020-12 as the schemas in docs/ use; a keyword that it does not know is an error."""

from __future__ import annotations

import re

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "number": (int, float),
}
WORDS = {"$schema", "$defs", "title", "description"}


def faults(value: object, schema: dict | bool, root: dict, at: str = "$") -> list[str]:
    """What is wrong with a value, each with its place; empty where it fits."""
    if isinstance(schema, bool):
        return [] if schema else [f"{at} may not be there"]
    found = []
    for word, wanted in schema.items():
        if word in WORDS or word in ("properties", "additionalProperties"):
            continue
        if word == "$ref":
            found += faults(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, at)
        elif word == "anyOf":
            tried = [faults(value, one, root, at) for one in wanted]
            found += [] if not all(tried) else [f"{at} fits none of {len(wanted)}: {[some[0] for some in tried]}"]
        elif word == "const":
            found += [] if value == wanted else [f"{at} is {value!r}, not {wanted!r}"]
        elif word == "type":
            kinds = [wanted] if isinstance(wanted, str) else wanted
            fits = any(isinstance(value, TYPES[k]) and (k == "boolean" or not isinstance(value, bool)) for k in kinds)
            found += [] if fits else [f"{at} is a {type(value).__name__}, not {wanted}"]
        elif word == "required":
            found += [f"{at} lacks {key}" for key in wanted if isinstance(value, dict) and key not in value]
        elif word == "propertyNames":
            found += [f"{at} has a key {k!r}" for k in _keys(value) if not re.search(wanted["pattern"], k)]
        elif word == "items":
            found += [
                f
                for i, v in enumerate(value if isinstance(value, list) else ())
                for f in faults(v, wanted, root, f"{at}[{i}]")
            ]
        else:
            raise NotImplementedError(word)
    named, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    for key in _keys(value):
        found += faults(value[key], named.get(key, others), root, f"{at}.{key}")  # type: ignore[index]
    return found


def _keys(value: object) -> list[str]:
    return list(value) if isinstance(value, dict) else []
