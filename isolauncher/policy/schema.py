# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints a JSON schema of the policy language, by which editors complete and explain.

    python3 -m isolauncher.policy.schema > docs/schema/policy.json

Taplo and what is made with it (VS Code's Even Better TOML) take it for the files of a
directory, or by a first line ``#:schema PATH``. It knows less than the loader: what a
path may be, and which values go together, only `test-policy` says.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from isolauncher.policy import attempts, audit, bitfrost, check
from isolauncher.policy.model import KEYS, TABLES, Key

_SIZE = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": "^[0-9]{1,20}[KMG]?$"},
    ]
}
_SENTENCE = {"type": "string", "minLength": 1, "maxLength": check.MAX_TEXT}


def schema() -> dict[str, Any]:
    """JSON schema, draft 7: the draft that Taplo reads."""
    top: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A policy of isolauncher",
        "type": "object",
        "required": ["version"],
        "additionalProperties": False,
        "properties": {},
    }
    for table, says in TABLES.items():
        keys = {
            key.name.rpartition(".")[2]: _key(key)
            for key in KEYS
            if key.table == table and key.name != "grants"
        }
        if not table:
            top["properties"] |= keys
        elif table != "grants":
            top["properties"][table] = {
                "description": says,
                "type": "object",
                "additionalProperties": False,
                "properties": keys,
            }
    top["properties"]["grants"] = _grants()
    top["properties"]["expect"] = _expect()
    top["properties"]["accept"] = _accept()
    return top


def _key(key: Key) -> dict[str, Any]:
    found: dict[str, Any] = {"description": key.says, **_type(key)}
    if key.default and not key.default.startswith(("[…", "{…")):
        found["default"] = _written(key.default)
    return found


def _written(default: str) -> Any:
    """A default is written as TOML, which for all of these is JSON too."""
    return json.loads(default)


def _type(key: Key) -> dict[str, Any]:
    if key.only is not None:
        return {"type": "array", "maxItems": 0}
    match key.kind:
        case "version":
            return {"const": 1}
        case "choice":
            return {"enum": [c for c in key.choices if c not in key.later]}
        case "flag":
            return {"type": "boolean"}
        case "count" | "seconds":
            return {
                "type": "integer",
                "minimum": key.minimum,
                "maximum": key.maximum,
            }
        case "size":
            return _SIZE
        case "settings":
            return {
                "type": "object",
                "additionalProperties": {
                    "anyOf": [{"type": "string"}, {"const": False}]
                },
            }
        case "devices":
            return {"type": "array", "items": {"enum": ["...", *key.choices]}}
        case "text" | "policy-name" | "hostname":
            return {"type": "string"}
        case _:
            return {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": check.MAX_ITEMS,
            }


def _grants() -> dict[str, Any]:
    """Those that are accepted; P_BIOS_* is a pattern."""
    found: dict[str, Any] = {
        "description": TABLES["grants"],
        "type": "object",
        "additionalProperties": False,
        "properties": {},
        "patternProperties": {},
    }
    for name in bitfrost.NAMES:
        if name.missing:
            continue
        grant = {
            "description": name.says,
            "type": "object",
            "additionalProperties": False,
            "required": ["because"],
            "properties": {"because": _SENTENCE},
        }
        if name.name.endswith("*"):
            found["patternProperties"][f"^{name.name[:-1]}[A-Z0-9_]+$"] = grant
        else:
            found["properties"][name.name] = grant
    return found


def _expect() -> dict[str, Any]:
    words = {
        "that": {"type": "string", "description": "A sentence for the report."},
        "try": {
            "type": "string",
            "description": "One of: " + "; ".join(attempts.ATTEMPTS.values()),
            "pattern": f"^({'|'.join(attempts.ATTEMPTS)})( |$)",
        },
        "result": {"enum": ["allowed", "refused", "absent"]},
    }
    return {
        "description": "An administrator's own tests: what must hold under the policy.",
        "type": "array",
        "maxItems": check.MAX_ITEMS,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": list(words),
            "properties": words,
        },
    }


def _accept() -> dict[str, Any]:
    words = {
        "finding": {"enum": list(audit.ACCEPTABLE)},
        "key": {"type": "string", "description": "The key that it must be about."},
        "item": {"type": "string", "description": "The item that it must be about."},
        "because": _SENTENCE,
        "until": {
            "type": "string",
            "format": "date",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
            "description": "The last day on which it holds, a date without quotes.",
        },
    }
    return {
        "description": "Findings that an administrator answers for until some day.",
        "type": "array",
        "maxItems": check.MAX_ITEMS,
        "items": {
            "type": "object",
            "additionalProperties": False,
            "required": ["finding", "because", "until"],
            "properties": words,
        },
    }


if __name__ == "__main__":
    json.dump(schema(), sys.stdout, indent=1, ensure_ascii=False)
    print()
