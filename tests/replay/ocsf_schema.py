"""The public OCSF schema, as the package ocsf-json-schema carries it, and what JSON Schema does not say of it."""

from __future__ import annotations

import functools
from typing import Any

import jsonschema
from ocsf_json_schema import OcsfJsonSchema, OcsfJsonSchemaEmbedded, get_ocsf_schema

OTHER = 99
SIBLINGS = {"activity_id": "activity_name", "status_id": "status"}  # where the number says "other", this says what


@functools.cache
def schema(version: str) -> OcsfJsonSchema:
    return OcsfJsonSchema(get_ocsf_schema(version))


@functools.cache
def validator(version: str, class_uid: int, profiles: tuple[str, ...]) -> Any:
    raw = schema(version)
    made = OcsfJsonSchemaEmbedded(raw).get_class_schema(raw.lookup_class_name_from_uid(class_uid), list(profiles))
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def faults(event: dict[str, Any], version: str) -> list[str]:
    """Return what is wrong with *event*: what is missing, unknown, of a wrong type, outside its enum, or deprecated.

    Attributes of a profile are known only if ``metadata.profiles`` names it.
    """
    profiles = event["metadata"]["profiles"]
    rules = validator(version, event["class_uid"], tuple(sorted(set(profiles))))
    found = [f"{error.json_path}: {error.message}" for error in rules.iter_errors(event)]
    found += [f"{path} is deprecated" for path in _deprecated(rules.schema, rules.schema, event, "$")]
    name = schema(version).lookup_class_name_from_uid(event["class_uid"])
    known = set(schema(version).schema["classes"][name]["profiles"])
    found += [f"the class has no profile {profile!r}" for profile in profiles if profile not in known]
    if len(set(profiles)) < len(profiles):
        found.append(f"profiles twice: {profiles}")
    found += [f"{number} is other, and {name} says not what" for number, name in SIBLINGS.items()
              if event.get(number) == OTHER and not event.get(name)]  # fmt: skip
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        found.append(f"type_uid is {event['type_uid']}")
    return found


def _deprecated(root: dict[str, Any], at: dict[str, Any], value: Any, path: str) -> list[str]:
    """Return the paths of attributes in *value* that the schema calls deprecated."""
    if "$ref" in at:
        at = root["$defs"][at["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        return [each for item in value for each in _deprecated(root, at.get("items", {}), item, f"{path}[]")]
    if not isinstance(value, dict):
        return []
    found = []
    for name, inner in value.items():
        rules = at.get("properties", {}).get(name, {})
        if rules.get("deprecated"):
            found.append(f"{path}.{name}")
        found += _deprecated(root, rules, inner, f"{path}.{name}")
    return found
