# SPDX-License-Identifier: GPL-3.0-or-later
"""``isolauncher completion bash|zsh``: written from the verbs' own parsers.

Nothing is listed here by hand: a verb or an option that is added to a parser is
completed from then on. What a value may be follows from its choices or its metavar.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import paths

if TYPE_CHECKING:
    from .main import Parser

# What completes a value, by the metavar of its option or argument.
_KINDS = {
    "FILE": "files",
    "PATH": "files",
    "DIR": "directories",
    "ID": "ids",
    "PROGRAM": "program",
    "NAME|FILE|BUNDLE": "policies",
}


def add_parser(subparsers: argparse._SubParsersAction[Parser]) -> None:
    parser = subparsers.add_parser(
        "completion",
        description="Print the completion script of a shell.",
        epilog="bash: source <(isolauncher completion bash). zsh: isolauncher "
        "completion zsh > a file _isolauncher in a directory of $fpath.",
        allow_abbrev=False,
    )
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    print(bash() if args.shell == "bash" else zsh(), end="")
    return 0


def bash() -> str:
    """The script for bash; it needs neither bash-completion nor a running daemon."""
    nodes = dict(_nodes())
    values: list[str] = []
    bodies: list[str] = []
    for node, parser in nodes.items():
        words = [o for action in parser._actions for o in action.option_strings]
        for action in parser._actions:
            if action.option_strings and action.nargs != 0:
                options = "|".join(f'"{node} {o}"' for o in action.option_strings)
                values.append(f"        {options}) {_bash_value(action)}; return ;;")
        bodies.append(f'        "{node}")')
        bodies.append(
            f'            if [[ $cur == -* ]]; then _isolauncher_words "{_join(words)}"'
        )
        for action in parser._actions:
            if not action.option_strings:
                bodies.append(f"            else {_bash_value(action)}")
                break
        bodies += ["            fi ;;"]
    verbs = [node for node in nodes if " " not in node]
    inner = "|".join(f'"{node}"' for node in nodes if " " in node) or '"- -"'
    takes = sorted(
        {
            option
            for action in nodes["run"]._actions
            if action.nargs != 0 and action.dest != "module"
            for option in action.option_strings
        }
    )
    return _BASH.format(
        verbs=_join([*verbs, "--help", "--version"]),
        inner=inner,
        takes="|".join(takes) or "''",
        values="\n".join(values),
        bodies="\n".join(bodies),
        policies=" ".join(shlex.quote(d) + "/*.toml" for d in _policy_dirs()),
    )


def zsh() -> str:
    """The script for zsh's own completion system."""
    nodes = dict(_nodes())
    from .main import VERBS

    verbs = [node for node in nodes if " " not in node]
    lines: list[str] = []
    for verb in verbs:
        inner = [node for node in nodes if node.startswith(verb + " ")]
        lines.append(f"            {verb})")
        if inner:
            names = " ".join(node.split(" ", 1)[1] for node in inner)
            lines.append(f"                if (( CURRENT == 2 )); then compadd {names}")
            lines.append("                else case $words[2] in")
            for node in inner:
                sub = node.split(" ", 1)[1]
                lines.append(f"                    {sub}) shift words; (( CURRENT-- ))")
                lines += _zsh_arguments(nodes[node], " " * 24)
                lines.append("                        ;;")
            lines.append("                esac; fi")
        else:
            lines += _zsh_arguments(nodes[verb], " " * 16)
        lines.append("                ;;")
    return _ZSH.format(
        verbs="\n".join(
            "                " + shlex.quote(f"{verb}:{VERBS[verb][1]}")
            for verb in verbs
        ),
        bodies="\n".join(lines),
        policies=" ".join(shlex.quote(d) + "/*.toml(N:t:r)" for d in _policy_dirs()),
    )


def _nodes() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every verb, and below it ``verb word`` where it has verbs of its own."""
    from .main import load, present

    for verb in present():
        parser = load(verb)[1]
        yield verb, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, inner in action.choices.items():
                    yield f"{verb} {name}", inner


def _kind(action: argparse.Action) -> str:
    if "--policy" in action.option_strings:
        return "policies"
    if not isinstance(action.metavar, str) or "--id" in action.option_strings:
        return "nothing"  # a new id is nothing that exists
    return _KINDS.get(action.metavar, "nothing")


def _bash_value(action: argparse.Action) -> str:
    if action.choices is not None:
        return f'_isolauncher_words "{_join(list(action.choices))}"'
    return f"_isolauncher_{_kind(action)}"


def _zsh_arguments(parser: argparse.ArgumentParser, indent: str) -> list[str]:
    specs = ["-s"]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            continue
        if action.choices is not None:
            value = f"({_join(list(action.choices))})"
        else:
            value = f"_isolauncher_{_kind(action)}"
        label = _plain(str(action.metavar or action.dest))
        if not action.option_strings:
            if _kind(action) == "program" and action.choices is None:
                specs.append(shlex.quote(f"*::{label}:_normal"))
            else:
                many = "*" if action.nargs in ("*", "+") else ""
                specs.append(shlex.quote(f"{many}:{label}:{value}"))
            continue
        help_ = _plain((action.help or "") % {"prog": "", "default": action.default})
        for option in action.option_strings:
            repeat = "*" if isinstance(action, argparse._AppendAction) else ""
            spec = f"{repeat}{option}[{help_}]"
            if action.nargs != 0:
                spec += f":{label}:{value}"
            specs.append(shlex.quote(spec))
    return [
        indent + "_arguments \\",
        *(f"{indent}    {spec} \\" for spec in specs[:-1]),
        f"{indent}    {specs[-1]}",
    ]


def _plain(text: str) -> str:
    """Without the characters that separate the parts of a zsh specification."""
    return "".join(" " if c in "[]:\\\n" else c for c in text)


def _join(words: list[str]) -> str:
    return " ".join(words)


def _policy_dirs() -> tuple[str, str]:
    return paths.VENDOR_POLICIES, paths.ADMIN_POLICIES


_BASH = """\
# bash completion for isolauncher, printed by `isolauncher completion bash`.

_isolauncher_words() {{
    COMPREPLY=($(compgen -W "$1" -- "$cur"))
}}

_isolauncher_nothing() {{ COMPREPLY=(); }}

_isolauncher_files() {{
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -f -- "$cur"))
}}

_isolauncher_directories() {{
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -d -- "$cur"))
}}

_isolauncher_ids() {{
    _isolauncher_words "$(isolauncher ps 2>/dev/null | awk 'NR > 1 {{ print $1 }}')"
}}

_isolauncher_policies() {{
    local file names=""
    for file in {policies}; do
        [[ -e $file ]] || continue
        file=${{file##*/}}
        names+=" ${{file%.toml}}"
    done
    if [[ $cur == */* ]]; then _isolauncher_files
    else _isolauncher_words "$names"; fi
}}

_isolauncher_program() {{
    local IFS=$'\\n'
    compopt -o filenames 2>/dev/null
    COMPREPLY=($(compgen -c -- "$cur") $(compgen -f -- "$cur"))
}}

_isolauncher() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    local node=${{COMP_WORDS[1]}} at
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        _isolauncher_words "{verbs}"
        return
    fi
    if ((COMP_CWORD > 2)); then
        case "$node ${{COMP_WORDS[2]}}" in
        {inner}) node="$node ${{COMP_WORDS[2]}}" ;;
        esac
    fi
    if [[ $node == run ]]; then
        # Behind the program everything is its own.
        for ((at = 2; at < COMP_CWORD; at++)); do
            case ${{COMP_WORDS[at]}} in
            --|-m) at=$((at + 1)); break ;;
            {takes}) at=$((at + 1)) ;;
            -*) ;;
            *) break ;;
            esac
        done
        if ((at < COMP_CWORD)); then
            if declare -F _command_offset >/dev/null; then _command_offset "$at"
            else _isolauncher_files; fi
            return
        fi
    fi
    case "$node $prev" in
{values}
    esac
    case "$node" in
{bodies}
    esac
}}

complete -F _isolauncher isolauncher
"""

_ZSH = """\
#compdef isolauncher
# zsh completion for isolauncher, printed by `isolauncher completion zsh`.

_isolauncher_nothing() {{ _message -e value }}
_isolauncher_files() {{ _files }}
_isolauncher_directories() {{ _files -/ }}
_isolauncher_program() {{ _normal }}

_isolauncher_ids() {{
    local -a ids
    ids=(${{(f)"$(isolauncher ps 2>/dev/null | awk 'NR > 1 {{ print $1 }}')"}})
    compadd -a ids
}}

_isolauncher_policies() {{
    local -a names
    names=({policies})
    compadd -a names
    _files -g '*.toml'
}}

_isolauncher() {{
    local context state state_descr line curcontext=$curcontext
    typeset -A opt_args
    _arguments -C \\
        '(- *)'{{-h,--help}}'[say what there is]' \\
        '(- *)--version[say which version this is]' \\
        '1:verb:->verb' \\
        '*::argument:->rest' && return
    case $state in
        verb)
            local -a verbs
            verbs=(
{verbs}
            )
            _describe verb verbs
            ;;
        rest)
            case $words[1] in
{bodies}
            esac
            ;;
    esac
}}

# A file of $fpath runs as the function of its name; what is sourced only says so.
if [[ $funcstack[1] == _isolauncher ]]; then
    _isolauncher "$@"
else
    compdef _isolauncher isolauncher
fi
"""
