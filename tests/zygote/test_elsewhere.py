# SPDX-License-Identifier: GPL-3.0-or-later
"""What was changed elsewhere is taken back, and done again, thing by thing."""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

import pytest

from isolauncher.zygote import elsewhere


class Holder:
    value = 1


# Before, what the import does to it, what the program did meanwhile, and at the end.
LISTS: dict[str, tuple[list[int], list[int], list[int], list[int]]] = {
    "appends": ([1, 2], [1, 2, 3], [1, 2, 9], [1, 2, 9, 3]),
    "puts first": ([1, 2], [3, 1, 2], [1, 2, 9], [3, 1, 2, 9]),
    "both": ([1], [0, 1, 2], [1, 9], [0, 1, 9, 2]),
    "takes out": ([1, 2, 3], [1, 3], [1, 2, 3, 9], [1, 3, 9]),
    "the same": ([1, 2], [1, 2, 3], [1, 2], [1, 2, 3]),
}


@pytest.mark.parametrize("row", LISTS)
def test_a_list_is_as_the_import_would_leave_it(row: str) -> None:
    before, after, meanwhile, at_the_end = LISTS[row]
    own: dict[str, Any] = {"held": list(before)}
    looking = elsewhere.Elsewhere()
    looking.hold("owner", own)
    own["held"][:] = after
    looking.look("changer")
    (change,) = looking.changes
    elsewhere.undo(change)
    assert own["held"] == before
    own["held"][:] = meanwhile
    elsewhere.again(change)
    assert own["held"] == at_the_end


@pytest.mark.parametrize("versions", [False, True])
def test_globals_classes_and_containers_are_looked_at(versions: bool) -> None:
    kind = type("Kind", (), {"__module__": "owner", "value": 1, "inner": {"a": 1}})
    own: dict[str, Any] = {"f": len, "kind": kind, "names": {1}, "map": {}}
    looking = elsewhere.Elsewhere()
    if versions:
        looking.sharpen(ctypes.c_uint64.from_address)
    looking.hold("owner", own)
    own["new"] = 1
    kind.more = 2  # type: ignore[attr-defined]
    kind.inner["b"] = 2  # type: ignore[attr-defined]
    own["names"].add(2)
    own["map"]["k"] = "v"
    looking.look("changer")
    found = {change.name for change in looking.changes}
    wanted = {"owner.new", "owner.kind.more", "owner.kind.inner['b']"}
    assert found == wanted | {"owner.names", "owner.map['k']"}
    own["f"] = print
    kind.value = 3  # type: ignore[attr-defined]
    looking.look("another")
    # Of one size as before: only a version tells.
    later = {change.name for change in looking.changes if change.by == "another"}
    assert later == ({"owner.f", "owner.kind.value"} if versions else set())
    for change in reversed(looking.changes):
        elsewhere.undo(change)
    assert (own["names"], own["map"], kind.inner) == ({1}, {}, {"a": 1})  # type: ignore[attr-defined]
    assert "new" not in own
    assert not hasattr(kind, "more")
    assert own["f"] is (len if versions else print)


def test_what_is_another_by_now_is_not_taken_back() -> None:
    own: dict[str, Any] = {"f": len}
    looking = elsewhere.Elsewhere()
    looking.hold("owner", own)
    own["g"] = 1
    looking.look("changer")
    own["g"] = 2
    elsewhere.undo(looking.changes[0])
    assert own["g"] == 2


def test_a_class_that_cannot_be_set_is_not_held() -> None:
    assert elsewhere._is_class(Holder)
    for kind in (int, type(hashlib.sha256())):
        assert not elsewhere._is_class(kind)
        with pytest.raises(TypeError):
            type.__setattr__(kind, "more", 1)
