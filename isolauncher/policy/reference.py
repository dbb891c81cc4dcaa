# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints docs/policy.md from the model, so that the two cannot say different things.

python3 -m isolauncher.policy.reference > docs/policy.md
"""

from __future__ import annotations

import textwrap

from isolauncher import bundle
from isolauncher.policy import (
    attempts,
    audit,
    bitfrost,
    check,
    load,
    quote,
    trust,
    wishes,
)
from isolauncher.policy.environment import DANGEROUS
from isolauncher.policy.model import KEYS, TABLES, Key

_KEYS = {key.name: key for key in KEYS}

_HEAD = f"""\
# The policy language

*Printed from `isolauncher/policy/model.py` by `python3 -m
isolauncher.policy.reference`; change it there.*

A policy says what one kind of program may see, use and reach. It is a TOML file,
`NAME.toml`, in `{load.SHIPPED_DIRECTORY}` (what is shipped) or
`{load.ETC_DIRECTORY}` (what the administrator says). `isolauncher test-policy NAME`
shows what it comes to, and all its mistakes at once. An edit takes effect at the next
launch; what runs goes on under what it was started with.

An editor that reads JSON schemas for TOML (Taplo, Even Better TOML) completes keys and
shows what they mean if the first line of the file is
`#:schema /usr/share/isolauncher/schema/policy.json`, or the path of
`docs/schema/policy.json` in a checkout.

```toml
version = 1
description = "Drawing programs: like default, and they may write the drawings."
extends = "default"

[match]
callers = ["@teachers", "alice"]

[files]
read = ["...", "/srv/pictures"]   # "..." first: what is inherited, and this
write = ["/srv/drawings"]

[limits]
memory = "2G"
```

## Layers

- A file that says nothing about `extends` stands on `default`. default.toml extends
  nothing and sets every key, so every key always has a value. What is told about one
  names the file and line that set it. At most {load.MAX_CHAIN} files stand on each
  other.
- A file in /etc replaces the shipped file of its name. If it says
  `extends = "its own name"`, it stands on the shipped one instead and changes only
  what it names.
- Lists replace. With `"..."` as their first element they keep what is inherited and
  add to it. `environment.set` and `[grants]` are merged by name.
- `[match]`, `description`, `[[expect]]` and `[[accept]]` are never inherited.

## Values

- Sizes are whole numbers of bytes or texts such as `"64M"`: K, M and G are 1024,
  1024² and 1024³ bytes. There are no fractions and no other units.
- Paths are absolute, without `.`, `..`, `//` or a `/` at the end.
- Names of policies are letters, digits and `. _ -`, at most 64, and begin with a letter
  or digit. Lists hold at most {check.MAX_ITEMS} items, files at most
  {trust.MAX_BYTES // 1024}K.
- An unknown key is an error, and so is whatever else is not in this document: a
  misspelt restriction must not pass for one.
- A key marked *not enforced yet* is understood and checked, but any value except the
  one named is refused, because nothing would keep the promise.

## Whose files count

A policy file must be a regular file (no link), belong to root, and be writable by
nobody else; the same holds for its directory and all directories above it. A sticky
directory like /tmp may stand above them. In a source checkout the owner of the code
counts like root; `test-policy`, which only looks, also takes the files of whoever
calls it. Access control lists are not looked at, except that the kernel shows a
list's mask as the group's mode bits: a file that a list makes writable is refused as
one that its group may write.
"""

_EXPECT = """\
## [[expect]]

An administrator's own tests: what must hold under the policy. Run by
`test-policy --live`, otherwise only checked.

```toml
[[expect]]
that = "the network is closed"
try = "connect tcp 127.0.0.1:22"
result = "refused"
```

- `that`: a sentence for the report.
- `result`: `allowed`; `refused`, because something stands in the way; `absent`, because
  for the program it does not exist (ENOENT).
- `try`: one of
"""

_ACCEPT = """\
## [[accept]]

What `test-policy` finds, and an administrator answers for until a certain day.

```toml
[files]
read = ["...", "/srv/atlas"]

[[accept]]
finding = "reads-others"
item = "/srv/atlas"
because = "All classes use the maps there."
until = 2027-06-30
```

- `finding`: the name of a finding, below.
- `key`, `item`: the key, and of a list the item, that it must be about; left out:
  whatever it is about.
- `because`: a sentence. Who writes nothing has not decided.
- `until`: the last day on which it holds, on the clock of whoever asks.

What is accepted is listed all the same, with its reason and its day, and reaches no
threshold; it opens as much as before, and its points count. After that day it counts
again, and `accept-expired` says so. What accepts nothing is found too. An exception
speaks of the file that it stands in: a policy that extends that file decides anew.
A launch never looks at it.

This is also how a dangerous setting says why it must be: `no-reason` is found where
neither an exception nor a grant does.
"""

_BUNDLES = f"""\
## What a bundle asks for

A bundle may have `activity/permissions.info`, as it was written for Rainbow: one
directive a line, "#" before a comment, at most {bundle.MAX_WISHES} of them. It is a
request: what is granted is never more than what the policy that governs the bundle
allows. `isolauncher explain BUNDLE` says which lines were granted, which were not and
why; a launch's report names those that were not, in `skipped`. What is no directive, or
none that can be read, gives nothing and is named there. A file that is no text, is too
long, or is no file of the bundle's own ends the launch.

- `constant-uid`: one uid for all launches. Granted where the policy says so for all
  bundles that it governs, by `uid = "bundle"` in `[identity]`. What a bundle keeps in
  its `data` is its own at the next launch all the same.
- `use-serial`: the serial ports. Granted where the policy says so for all bundles that
  it governs, by `"serial"` in `[devices]`.
"""

_EXPECT_MORE = """\

A PATH is absolute, or begins with `{home}/`, the home of who launches. Of a path in
`/home` itself little is to be expected: down to the program, and for a bundle to its
directories, it is there.

What is tried is tried by a program in the sandbox. That it is refused there says
nothing where it does not work outside either. So what is named in `{home}` is there
outside; before a `connect` to an address of this machine alone, or to a socket's path,
somebody listens there if nobody does yet; and who launches tries `connect`, `bind`,
`resolve` and `call` outside first. Where that fails, where a trial would do harm
(`fork` of more than 5000, `allocate` of more than the machine has to spare), and where
something else than `absent` is expected of a path or a device that this machine does
not have, the expectation is *untried*, and the report says why; so it is where `absent`
is expected of what could not be put into `{home}`. A program that is executed is ended
at once, nothing that is there is overwritten, and what a `call` of a name would do is
not done: it has arguments that nobody takes.

Unless `network.access` is "host", a HOST, and a PATH that begins with "@", is one of
the activity's own network, where nobody else is: a `bind` that is allowed there opens
nothing to anybody. Under "none" one of TCP is refused where there is Landlock; one of
UDP to 127.0.0.1 never is.
"""

_LIVE = """\
## What --live tries

`test-policy --live` launches a probe under each policy, as any program would be, and
compares what it sees and what it is refused, and what the kernel says of it outside,
with the policy and its plan. Each claim comes out as

- `proved`: it holds;
- `broken`: it was asked for and is not in force. That is the finding `not-engaged`,
  which is dangerous, whatever the launch's own report says;
- `failed`: an expectation came out otherwise, or nothing could be launched at all;
- `untried`: it cannot be tried here, and the report says why. It counts neither way.

The claims are those of the report's `enforced` (`uid`, `groups`, `capabilities`,
`no_new_privs`, `securebits`, the namespaces, `user`, `rlimit NAME`, `cgroup
CONTROLLER`, `seccomp`, `landlock`, `keyring`, `descriptors`, `environment`), each path
of `files.read` and `files.write`, what else the policy sets by the name of its key,
that the rest of the host is absent, and the classes of attacks that a program can try
on itself.

A policy is tried by who can show most of it: by who called `sudo`, or else by a uid
that nobody has; as a bundle in a directory of its own where it governs bundles and
gives something that only they get; by root where it is for root alone, and so is a
policy file. Display, session bus and Journal are those of the caller's own session;
without one they are untried. Root's `--live` uses the daemon that runs, or starts one
of its own where none does or `--policy-dir` is given, and ends it. Anybody else needs a
running one, launches as themselves, and learns less: much of what is outside only root
sees.
"""

_ENVIRONMENT = """\
## Variables that no pattern keeps

A pattern in `environment.keep` (`GTK_*`) never takes these. One of them comes in only
if a policy writes its name in full.
"""


_FINDINGS = """\
## What test-policy finds

Each thing that a policy opens and that somebody should think about is a finding, with a
severity: a `note` is worth knowing, `open` is a way to something that is not the
activity's own, and with a `dangerous` one the sandbox does not hold what its name
promises. No shipped policy has a dangerous one. `--threshold` says from which severity
on the exit status is 1.

Findings, and all that is too ordinary to be one, add points to the *exposure*, a
figure to compare policies by: whatever weakens a policy raises it, by a line that
names the key (`--json`, `exposure_lines`). Amounts count by their logarithm. The
figure says nothing of a machine: what can be reached on it is not looked at.
"""


def reference() -> str:
    """The whole document."""
    parts = [_HEAD, "## Keys\n"]
    for table, says in TABLES.items():
        keys = [key for key in KEYS if key.table == table and key.name != "grants"]
        parts.append(f"### {f'[{table}]' if table else 'At the top'}\n")
        parts.append(_wrap(says) + "\n")
        if table == "grants":
            parts.append("\n".join(map(_grant, bitfrost.NAMES)) + "\n")
        if keys:
            parts.append("\n".join(_key(key) for key in keys) + "\n")
    forms = "\n".join(f"  - `{form}`" for form in _forms())
    parts.append(_EXPECT + forms + "\n" + _EXPECT_MORE)
    parts.append(_LIVE)
    parts.append(_ACCEPT)
    parts.append(
        _BUNDLES + "\n".join(_limit(*pair) for pair in wishes.LIMITS.items()) + "\n"
    )
    kinds = (_finding(kind) for kind in audit.KINDS)
    parts.append(_FINDINGS + "\n" + "\n".join(kinds) + "\n")
    parts.append(_ENVIRONMENT + "\n" + _wrap(", ".join(_code(DANGEROUS))) + "\n")
    return "\n".join(parts)


def _key(key: Key) -> str:
    """One item of a list: name, what it takes, default, meaning."""
    facts = [_takes(key)]
    if key.default == "[…]" or key.default == "{…}":
        facts.append("default: see default.toml")
    elif key.default:
        facts.append(f"default `{key.default}`")
    text = f"`{key.name.rpartition('.')[2]}` ({'; '.join(facts)}): {key.says}"
    if key.only is not None:
        text += f" *Not enforced yet: only `{key.default}` is accepted.*"
    if key.later:
        words = ", ".join(_code(key.later))
        text += f" *Not enforced yet: {words}.*"
    return _wrap(text, "- ", "  ")


def _grant(name: bitfrost.Name) -> str:
    text = f"`{name.name}`: {name.says}"
    if name.gives:
        told = ", ".join(f"{g.key} = {quote.written(g.value)}" for g in name.gives)
        text += f" Stands for `{told}`."
    elif name.missing:
        text += " *Not enforced yet: not accepted.*"
    else:
        text += " *Gives nothing here.*"
    return _wrap(text, "- ", "  ")


def _limit(directive: str, place: tuple[str, str]) -> str:
    key, _ = place
    what = "bytes" if _KEYS[key].kind == "size" else "a number"
    text = f"`{directive} N` ({what}): asks for a lower `{key}`; it cannot raise it."
    return _wrap(text, "- ", "  ")


def _finding(kind: audit.Kind) -> str:
    says = kind.says.removeprefix("{item}: ").replace("{item}", "…")
    says = says[:1].upper() + says[1:]
    facts = f"{kind.severity}, {kind.points:g} point{'s' if kind.points != 1 else ''}"
    text = f"`{kind.id}` ({facts}): {says} Instead: {kind.fix}. See {kind.see}."
    return _wrap(text, "- ", "  ")


def _takes(key: Key) -> str:
    match key.kind:
        case "choice":
            return " | ".join(_code(key.choices))
        case "flag":
            return "`true` | `false`"
        case "version":
            return "`1`"
        case "text" | "hostname" | "policy-name":
            return "text"
        case "count":
            return f"number, {key.minimum} to {key.maximum}"
        case "seconds":
            return "seconds"
        case "size":
            if key.minimum:
                return f"size, at least `{quote.with_unit(key.minimum)}`"
            return "size"
        case "settings" | "grants":
            return "table"
        case "devices":
            return "list of " + ", ".join(_code(key.choices))
        case "read-paths" | "write-paths":
            return "list of paths"
        case _:
            return "list of texts"


def _forms() -> list[str]:
    return list(attempts.ATTEMPTS.values())


def _code(words: tuple[str, ...]) -> list[str]:
    return [f"`{word}`" for word in words]


def _wrap(text: str, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text,
        88,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    print(reference(), end="")
