# SPDX-License-Identifier: GPL-3.0-or-later
"""From policy files to `Policy` values: directories, layers, provenance, freshness.

    /etc/isolauncher/policies/NAME.toml         replaces the shipped file of its name
    /usr/share/isolauncher/policies/NAME.toml   what is shipped

A file stands on the one it ``extends`` (default, if it says nothing), down to a
default.toml that extends nothing and sets every key. `PolicyStore` reads each file
once (trust.py), has it checked (check.py), stacks the layers, and remembers what
everything was made from: `get` looks at each file again and gives the same Policy
only as long as nothing changed.

All mistakes of all files of a chain come together in one `PolicyError`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Literal, cast

from isolauncher.errors import Mistake, PolicyError
from isolauncher.policy import bitfrost, check, reserved, toml, trust
from isolauncher.policy.check import Layer, Listed
from isolauncher.policy.model import (
    KEYS,
    Access,
    Bus,
    Documents,
    Environment,
    Files,
    Grant,
    Identity,
    InnerUid,
    Kernel,
    Limits,
    Match,
    Need,
    Origin,
    Policy,
    Preload,
    Said,
    Tier,
    UidMode,
    Value,
)
from isolauncher.policy.quote import shown

ETC_DIRECTORY = "/etc/isolauncher/policies"
SHIPPED_DIRECTORY = "/usr/share/isolauncher/policies"
STATE_DIRECTORY = "/var/lib/isolauncher"
RUN_DIRECTORY = "/run/isolauncher"

ROOT_POLICY = "default"
MAX_CHAIN = 16
MAX_FILES = 1000

Kept = Literal["etc", "vendor"]


def checkout() -> Path | None:
    """The source tree this code runs from, or None if it is installed."""
    top = Path(__file__).resolve().parents[2]
    if (top / "pyproject.toml").is_file() and (top / "policies").is_dir():
        return top
    return None


def vendor_directory() -> str:
    """Where the shipped policies are, for the code that is running."""
    tree = checkout()
    if tree is not None:
        return str(tree / "policies")
    # pip in a virtual environment puts them there; for Debian's interpreter it is
    # the directory below by another way.
    beside = os.path.join(sys.prefix, "share", "isolauncher", "policies")
    return beside if os.path.isdir(beside) else SHIPPED_DIRECTORY


def trusted_owners() -> frozenset[int]:
    """Root, and in a checkout the owner of the code.

    Whoever can change the code needs no policy to get around another one.
    """
    if checkout() is None:
        return frozenset({0})
    return frozenset({0, os.stat(os.path.dirname(__file__)).st_uid})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """One file read: ``name`` and ``kept`` say which, ``layer`` what it says."""

    name: str
    kept: Kept | Literal["file"]
    layer: Layer
    sha256: str


@dataclass(slots=True)
class _Remembered:
    source: _Source
    stamp: trust.Stamp


@dataclass(slots=True)
class _Folder:
    """One policy directory: open as long as the way to it is what it was."""

    kept: Kept
    path: str
    opened: trust.Directory | None = None
    missing: trust.Missing | None = None
    sources: dict[str, _Remembered] = field(default_factory=dict)


class PolicyStore:
    """The policies of two directories; either may be missing.

    ``owners`` are the uids whose files count, ``protected`` the directories besides
    the policies' own that no policy may make writable. Not for several threads.
    """

    def __init__(
        self,
        vendor_dir: str | None = None,
        etc_dir: str | None = ETC_DIRECTORY,
        *,
        owners: frozenset[int] | None = None,
        protected: Iterable[str] = (STATE_DIRECTORY, RUN_DIRECTORY),
    ) -> None:
        self.vendor_dir = os.path.abspath(vendor_dir or vendor_directory())
        self.etc_dir = os.path.abspath(etc_dir) if etc_dir else None
        self.owners = trusted_owners() if owners is None else owners
        code = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        private = tuple(protected)
        places = [*private, self.vendor_dir, ETC_DIRECTORY, SHIPPED_DIRECTORY, code]
        if self.etc_dir:
            places.append(self.etc_dir)
        # Both as each is called and as it is: a link must not hide it.
        self._protected = _both_names(places)
        self._private = _both_names(private)
        # In the order in which they are sought.
        self._folders: list[_Folder] = []
        if self.etc_dir:
            self._folders.append(_Folder("etc", self.etc_dir))
        self._folders.append(_Folder("vendor", self.vendor_dir))
        self._policies: dict[str, tuple[tuple[_Source, ...], Policy]] = {}
        self._left_out = ""

    def close(self) -> None:
        for folder in self._folders:
            _forget(folder)

    def refuse_read(self, path: str) -> str | None:
        """Why no activity is shown ``path``, or None; for paths already resolved."""
        return reserved.refuse_read(path, self._private) or reserved.made_anew(path)

    def refuse_write(self, path: str) -> str | None:
        """Why no activity may write ``path``, or None; for paths already resolved."""
        return reserved.refuse_write(path, self._protected) or reserved.made_anew(path)

    def names(self) -> tuple[str, ...]:
        """Every policy there is, sorted; PolicyError if a directory is unusable."""
        self._look_again()
        return tuple(sorted({name for names in self._listed() for name in names}))

    def directory_names(self, kept: Kept) -> tuple[str, ...]:
        """The policies that one of the two directories has a file for."""
        self._look_again()
        for folder, names in zip(self._folders, self._listed(), strict=True):
            if folder.kept == kept:
                return tuple(sorted(names))
        return ()

    def strays(self) -> tuple[Mistake, ...]:
        """Files that look like policies and can never be one, because of their name."""
        self._look_again()
        found: list[Mistake] = []
        for folder in self._folders:
            for entry in _entries(folder):
                stem = entry.removesuffix(".toml")
                if stem == entry or entry.startswith("."):
                    continue
                if not check.POLICY_NAME.fullmatch(stem):
                    found.append(
                        _mistake(
                            folder.path,
                            "",
                            "policy-bad-name",
                            f"no policy can be called {shown(stem)}",
                            "letters, digits, . _ -, at most 64, beginning with a "
                            "letter or digit",
                        )
                    )
        return tuple(found)

    def get(self, name: str) -> Policy:
        """The policy as its files are now; the same object while they stay the same."""
        self._look_again()
        if not check.POLICY_NAME.fullmatch(name):
            raise PolicyError(
                (
                    _mistake(
                        shown(name),
                        "",
                        "policy-bad-name",
                        "this is not the name of a policy",
                        "a policy is named by letters, digits, . _ - without .toml",
                    ),
                )
            )
        source = self._find(name)
        if source is None:
            raise PolicyError((self._unknown(name),))
        return self._policy(source)

    @contextmanager
    def without(self, name: str) -> Iterator[None]:
        """Meanwhile, as if the administrator's directory had no file for ``name``."""
        before, self._left_out = self._left_out, name
        try:
            yield
        finally:
            self._left_out = before

    def standing_on(self, name: str) -> tuple[str, ...]:
        """The other policies that extend this one, by whatever way; PolicyError."""
        found: list[str] = []
        for other in self.names():
            source = self._find(other)
            if source is None or other == name:
                continue
            if any(link.name == name for link in self._chain(source)[0]):
                found.append(other)
        return tuple(found)

    def matches(self) -> Mapping[str, tuple[Match, Origin]]:
        """What each policy's own [match] says, and where; all of them or PolicyError.

        A file whose [match] cannot be read might govern anything: it stops the
        choice. Other mistakes stop only those who would be governed by it.
        """
        self._look_again()
        found: dict[str, tuple[Match, Origin]] = {}
        mistakes: list[Mistake] = []
        for name in sorted({name for names in self._listed() for name in names}):
            try:
                source = self._find(name)
            except PolicyError as error:
                mistakes.extend(error.mistakes)
                continue
            if source is None:
                continue  # gone since the directory was listed
            layer = source.layer
            if not layer.match_is_known:
                mistakes.extend(layer.mistakes)
                continue
            origin = layer.origins.get(
                "match.bundle-id", Origin(file=layer.file, line=1)
            )
            found[name] = (layer.match, origin)
        if mistakes:
            raise PolicyError(tuple(mistakes))
        return found

    def load_file(self, path: str) -> Policy:
        """One file that lies elsewhere; what it extends comes from the directories."""
        self._look_again()
        where, base = os.path.split(os.path.abspath(path))
        try:
            directory = trust.open_directory(where, self.owners)
        except FileNotFoundError:
            raise PolicyError((_no_file(path),)) from None
        except trust.Untrusted as error:
            raise PolicyError((_distrust(error),)) from error
        try:
            data, stamp = trust.read_file(directory, base, self.owners)
        except FileNotFoundError:
            raise PolicyError((_no_file(path),)) from None
        except trust.Untrusted as error:
            raise PolicyError((_distrust(error),)) from error
        finally:
            directory.close()
        return self._loose(data, stamp, path)

    def load_descriptor(self, descriptor: int, path: str) -> Policy:
        """The file that an open descriptor stands for; ``path`` is what to call it.

        The directories above it are not looked at: whoever opened it chose it.
        """
        self._look_again()
        try:
            data, stamp = trust.read_descriptor(descriptor, path, self.owners)
        except trust.Untrusted as error:
            raise PolicyError((_distrust(error),)) from error
        return self._loose(data, stamp, path)

    # Files

    def _loose(self, data: bytes, stamp: trust.Stamp, path: str) -> Policy:
        stem = os.path.basename(path).removesuffix(".toml")
        name = stem if check.POLICY_NAME.fullmatch(stem) else "file"
        source = _Source(
            name=name,
            kept="file",
            layer=self._check(data, path),
            sha256=stamp.sha256,
        )
        chain, mistakes = self._chain(source)
        return _stack(name, chain, mistakes)

    def _look_again(self) -> None:
        """Make sure that the directories are still those that were looked at."""
        for folder in self._folders:
            if folder.opened is not None and all(
                stamp.still_holds() for stamp in folder.opened.way
            ):
                continue
            if folder.missing is not None and folder.missing.still_holds():
                continue
            _forget(folder)
            try:
                folder.opened = trust.open_directory(folder.path, self.owners)
            except trust.Missing as missing:
                # No policies there: what must exist is missed by name.
                folder.missing = missing.with_traceback(None)
            except trust.Untrusted as error:
                raise PolicyError((_distrust(error),)) from error

    def _listed(self) -> list[list[str]]:
        listed: list[list[str]] = []
        for folder in self._folders:
            names = [
                stem
                for entry in _entries(folder)
                if (stem := entry.removesuffix(".toml")) != entry
                and check.POLICY_NAME.fullmatch(stem)
                and not (folder.kept == "etc" and stem == self._left_out)
            ]
            if len(names) > MAX_FILES:
                raise PolicyError(
                    (
                        _mistake(
                            folder.path,
                            "",
                            "policy-too-many-files",
                            f"more than {MAX_FILES} policies in one directory",
                        ),
                    )
                )
            listed.append(names)
        return listed

    def _find(self, name: str, *, below: str = "") -> _Source | None:
        """The file that counts for a name; ``below`` "etc": the shipped one."""
        for folder in self._folders:
            if folder.kept == "etc" and (below == "etc" or name == self._left_out):
                continue
            source = self._source(folder, name)
            if source is not None:
                return source
        return None

    def _source(self, folder: _Folder, name: str) -> _Source | None:
        if folder.opened is None:
            return None
        remembered = folder.sources.get(name)
        if remembered is not None and remembered.stamp.still_holds():
            return remembered.source
        try:
            data, stamp = trust.read_file(folder.opened, name + ".toml", self.owners)
        except FileNotFoundError:
            folder.sources.pop(name, None)
            return None
        except trust.Untrusted as error:
            folder.sources.pop(name, None)
            raise PolicyError((_distrust(error),)) from error
        if remembered is not None and remembered.source.sha256 == stamp.sha256:
            remembered.stamp = stamp
            return remembered.source
        source = _Source(
            name=name,
            kept=folder.kept,
            layer=self._check(data, stamp.path),
            sha256=stamp.sha256,
        )
        folder.sources[name] = _Remembered(source, stamp)
        return source

    def _check(self, data: bytes, path: str) -> Layer:
        return check.check(
            data, _printable(path), protected=self._protected, private=self._private
        )

    # Layers

    def _policy(self, source: _Source) -> Policy:
        chain, mistakes = self._chain(source)
        known = self._policies.get(source.name)
        if known is not None and not mistakes and _same_objects(known[0], chain):
            return known[1]
        self._policies.pop(source.name, None)
        policy = _stack(source.name, chain, mistakes)
        self._policies[source.name] = (chain, policy)
        return policy

    def _chain(self, source: _Source) -> tuple[tuple[_Source, ...], list[Mistake]]:
        """The file and all it stands on, base last, and what breaks the chain."""
        chain = [source]
        mistakes: list[Mistake] = []
        while True:
            here = chain[-1]
            wanted = here.layer.extends
            if wanted is None:
                if here.name == ROOT_POLICY:
                    break
                wanted = ROOT_POLICY
            at = here.layer.extends_at
            below = ""
            if wanted == here.name and here.kept != "file":
                below = "etc"
            if below and here.kept == "vendor":
                found = here
            else:
                try:
                    next_one = self._find(wanted, below=below)
                except PolicyError as error:
                    mistakes.extend(error.mistakes)
                    break
                if next_one is None:
                    mistakes.append(self._unknown(wanted, at=at, file=here.layer.file))
                    break
                found = next_one
            way = " → ".join(
                f"{link.name} ({link.layer.file})" for link in (*chain, found)
            )
            if any(found is link for link in chain):
                mistakes.append(
                    _mistake(
                        here.layer.file,
                        "extends",
                        "policy-extends-loop",
                        f"a policy stands on itself: {way}",
                        "let one of them extend something else",
                        at.line,
                        at.column,
                    )
                )
                break
            chain.append(found)
            if len(chain) > MAX_CHAIN:
                mistakes.append(
                    _mistake(
                        here.layer.file,
                        "extends",
                        "policy-extends-too-deep",
                        f"more than {MAX_CHAIN} policies stand on each other: {way}",
                        "let one of them extend a policy nearer to default",
                        at.line,
                        at.column,
                    )
                )
                break
        return tuple(chain), mistakes

    def _unknown(
        self, name: str, *, at: toml.Place | None = None, file: str = ""
    ) -> Mistake:
        known = sorted({known for names in self._listed() for known in names})
        near = difflib.get_close_matches(name, known, 1)
        where = " or ".join(folder.path for folder in self._folders)
        hint = f"did you mean {near[0]}?" if near else f"sought in {where}"
        if at is not None and name in near:
            return _mistake(
                file,
                "extends",
                "policy-unknown",
                f"it is {shown(name)} itself, and no shipped policy has that name",
                "leave it out to extend default",
                at.line,
                at.column,
            )
        if at is not None:
            return _mistake(
                file,
                "extends",
                "policy-unknown",
                f"there is no policy {shown(name)}",
                hint,
                at.line,
                at.column,
            )
        return _mistake(
            f"{name}.toml", "", "policy-unknown", "there is no such policy", hint
        )


def _both_names(places: Iterable[str]) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(
            name
            for place in places
            for name in (os.path.abspath(place), os.path.realpath(place))
        )
    )


def _same_objects(one: tuple[_Source, ...], other: tuple[_Source, ...]) -> bool:
    return len(one) == len(other) and all(
        mine is yours for mine, yours in zip(one, other, strict=True)
    )


def _forget(folder: _Folder) -> None:
    if folder.opened is not None:
        folder.opened.close()
    folder.opened = folder.missing = None
    folder.sources.clear()


def _entries(folder: _Folder) -> list[str]:
    if folder.opened is None:
        return []
    try:
        return sorted(os.listdir(folder.opened.descriptor))
    except OSError as error:
        raise PolicyError(
            (
                _mistake(
                    folder.path,
                    "",
                    "policy-unreadable",
                    f"cannot be listed: {os.strerror(error.errno or 0)}",
                ),
            )
        ) from error


def _mistake(
    file: str,
    key: str,
    code: str,
    message: str,
    hint: str = "",
    line: int = 0,
    column: int = 0,
) -> Mistake:
    return Mistake(
        file=_printable(file),
        line=line,
        column=column,
        key=key,
        code=code,
        message=message,
        hint=hint,
    )


def _distrust(error: trust.Untrusted) -> Mistake:
    return _mistake(error.path, "", error.code, error.message, error.hint)


def _no_file(path: str) -> Mistake:
    return _mistake(path, "", "policy-unreadable", "there is no such file")


def _printable(path: str) -> str:
    return path if path.isprintable() else shown(path, 200)


# Stacking


def _stack(name: str, chain: tuple[_Source, ...], broken: list[Mistake]) -> Policy:
    """Lay the files of a chain on each other, base first, into one policy."""
    layers = [source.layer for source in reversed(chain)]
    mistakes = [
        mistake for source in chain for mistake in source.layer.mistakes
    ] + broken
    values: dict[str, Value] = {}
    settings: dict[str, str] = {}
    grants: dict[str, Grant] = {}
    origins: dict[str, Origin] = {}
    history: dict[str, tuple[Said, ...]] = {}
    for layer in layers:
        for grant in layer.grants.values():
            grants[grant.name] = grant
            said = Said(value=grant.because, origin=grant.origin)
            full = f"grants.{grant.name}"
            history[full] = (*history.get(full, ()), said)
        for key, value in layer.values.items():
            more = isinstance(value, Listed) and value.inherits
            alone = value.own if isinstance(value, Listed) else value
            said = Said(value=alone, origin=layer.origins[key], more=more)
            history[key] = (*history.get(key, ()), said)
            if isinstance(value, Listed):
                inherited = values.get(key, ()) if value.inherits else ()
                before = inherited if isinstance(inherited, tuple) else ()
                values[key] = (
                    *before,
                    *(item for item in value.own if item not in before),
                )
            else:
                values[key] = value
            origins[key] = layer.origins[key]
        # One that this file has taken away does not come back with another's value.
        grants = {n: g for n, g in grants.items() if bitfrost.holds(n, values)}
        for variable, setting in layer.settings.items():
            full = f"environment.set.{variable}"
            if full in layer.origins:
                said = Said(value=setting, origin=layer.origins[full])
                history[full] = (*history.get(full, ()), said)
            if setting is None:
                settings.pop(variable, None)
                origins.pop(full, None)
            else:
                settings[variable] = setting
                origins[full] = layer.origins[full]

    if not mistakes:
        base = layers[0]
        for wanted in KEYS:
            if wanted.inherited and wanted.name not in base.values:
                mistakes.append(
                    _mistake(
                        base.file,
                        wanted.name,
                        "policy-missing-key",
                        "a policy that stands on no other must set every key",
                        f"add {wanted.name.rpartition('.')[2]} = {wanted.default} to "
                        f"[{wanted.table}], or extends = \"default\" in /etc to keep "
                        "what is shipped",
                        1,
                    )
                )
    top = chain[0].layer
    if lacks := bitfrost.without_reason(values, frozenset(grants)):
        mistakes.append(
            _mistake(
                top.file,
                f"grants.{lacks}",
                "policy-needs-reason",
                "a microphone or camera beside a network, and nobody says why",
                f'add {lacks} = {{ because = "one sentence" }} to [grants]',
                1,
            )
        )
    if mistakes:
        raise PolicyError(tuple(mistakes))

    origins |= {f"grants.{grant.name}": grant.origin for grant in grants.values()}
    for own in KEYS:
        # What is never inherited is the top file's or nobody's.
        if not own.inherited and own.name not in top.origins:
            origins.pop(own.name, None)
    return _policy(name, chain, values, settings, grants, origins, history)


def _policy(
    name: str,
    chain: tuple[_Source, ...],
    values: Mapping[str, Value],
    settings: Mapping[str, str],
    grants: Mapping[str, Grant],
    origins: Mapping[str, Origin],
    history: Mapping[str, tuple[Said, ...]],
) -> Policy:
    def text(key: str) -> str:
        return cast(str, values[key])

    def number(key: str) -> int:
        return cast(int, values[key])

    def flag(key: str) -> bool:
        return cast(bool, values[key])

    def words(key: str) -> tuple[str, ...]:
        return cast("tuple[str, ...]", values[key])

    top = chain[0].layer
    names = sha256()
    for source in reversed(chain):
        names.update(f"{source.layer.file}\0{source.sha256}\0".encode())
    return Policy(
        name=name,
        files=tuple(source.layer.file for source in reversed(chain)),
        description=top.description,
        match=top.match,
        identity=Identity(
            uid=cast(UidMode, text("identity.uid")),
            inner_uid=cast(InnerUid, text("identity.inner-uid")),
        ),
        hostname=text("namespaces.hostname"),
        network=cast(Access, text("network.access")),
        view=Files(
            read=words("files.read"),
            write=words("files.write"),
            tmp=number("files.tmp"),
            data=number("files.data"),
            documents=cast(Documents, text("files.documents")),
        ),
        devices=words("devices.allow"),
        x11=cast(Literal["none", "shared"], text("display.x11")),
        bus=Bus(
            session_call=words("bus.session-call"),
            session_own=words("bus.session-own"),
            accessibility=flag("bus.accessibility"),
            input_method=flag("bus.input-method"),
        ),
        limits=Limits(
            cgroup=cast(Literal["required", "if-possible"], text("limits.cgroup")),
            processes=number("limits.processes"),
            memory=number("limits.memory"),
            open_files=number("limits.open-files"),
            file_size=number("limits.file-size"),
            cpu_seconds=number("limits.cpu-seconds"),
            core=number("limits.core"),
            cpu_weight=number("limits.cpu-weight"),
            nice=number("limits.nice"),
        ),
        environment=Environment(
            keep=words("environment.keep"), set=MappingProxyType(dict(settings))
        ),
        kernel=Kernel(
            syscalls=text("kernel.syscalls"),
            landlock=cast(Need, text("kernel.landlock")),
        ),
        preload=Preload(set=text("preload.set"), tier=cast(Tier, text("preload.tier"))),
        origin=MappingProxyType(dict(origins)),
        history=MappingProxyType(dict(history)),
        grants=tuple(grants.values()),
        expects=top.expects,
        accepts=top.accepts,
        digest=names.hexdigest(),
    )
