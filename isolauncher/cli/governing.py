# SPDX-License-Identifier: GPL-3.0-or-later
"""Which policy NAME|FILE|BUNDLE means, for the verbs that only look at policies.

With a slash, a file if it ends in .toml, else a bundle's directory; without, the name
of a policy, or else the id of a bundle: of the one that `launch` would take, if it is
installed. A bundle is read as the daemon reads it, with the rights of whoever asks.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass

from ..bundle import Bundle
from ..errors import BundleError
from ..policy import choose, wishes
from ..policy.load import ETC_DIRECTORY, PolicyStore, trusted_owners
from ..policy.model import Policy

_BUNDLE_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
AS_SYSTEM = "taken for a bundle of the system's, because none of this id is installed"


def add_policy_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--policy-dir",
        metavar="DIR",
        default=ETC_DIRECTORY,
        help=f"a directory that stands in for {ETC_DIRECTORY}",
    )


def store(etc_dir: str) -> PolicyStore:
    """With files of one's own too: who only looks may look at theirs."""
    return PolicyStore(etc_dir=etc_dir, owners=trusted_owners() | {os.getuid()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Governing:
    """A policy; if it governs a bundle, why, and what became of what that asks for.

    ``for_all``: the bundle was found, and it is the system's.
    """

    policy: Policy
    why: str = ""
    for_all: bool = False
    answers: tuple[wishes.Answer, ...] = ()


def find(policies: PolicyStore, word: str) -> Governing:
    """PolicyError and BundleError for what cannot be used."""
    if "/" in word:
        if word.endswith(".toml"):
            return Governing(policy=policies.load_file(word))
        return _of_bundle(policies, word)
    if word in policies.names() or not _BUNDLE_ID.fullmatch(word):
        return Governing(policy=policies.get(word))
    # Not at the top: a policy's name needs none of it.
    from ..session import installed

    try:
        path = installed.find(word, os.environ)
    except BundleError:
        choice = choose.for_bundle(policies, word, system=True)
        return Governing(policy=choice.policy, why=f"{choice.why} ({AS_SYSTEM})")
    return _of_bundle(policies, path)


def read(path: str) -> Bundle:
    """A bundle's directory as the daemon reads it; BundleError."""
    from .. import bundle, bundledir

    try:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}",
            code="bundle-not-found",
            hint="name a bundle's directory, or a policy file that ends in .toml",
        ) from None
    try:
        found = bundledir.look(fd)
    finally:
        os.close(fd)
    return bundle.parse(found)


def _of_bundle(policies: PolicyStore, path: str) -> Governing:
    found = read(path)
    system = found.installed_by == "system"
    choice = choose.for_bundle(policies, found.bundle_id, system=system)
    policy, answers = wishes.answer(choice.policy, found.wishes, found.permissions)
    why = f"{found.path}: {choice.why} ({found.why})"
    return Governing(policy=policy, why=why, for_all=system, answers=answers)
