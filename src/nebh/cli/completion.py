"""Completion scripts for shells, made from the command line itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from nebh.cli.output import Output

Words = dict[tuple[str, ...], tuple[str, ...]]
"""Words of a command -> what may follow: subcommands and options."""

_BASH = """# nebh completion for bash: eval "$(nebh completion bash)"
_nebh() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" path="" i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            -*) ;;
            *) case "$path ${{COMP_WORDS[i]}}" in
{paths}) path="$path ${{COMP_WORDS[i]}}" ;; esac ;;
        esac
    done
    local words=""
    case "$path" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ "$word" == -* || ${{#COMPREPLY[@]}} -gt 0 ]] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -o filenames -F _nebh nebh
"""
_ZSH = """#compdef nebh
# nebh completion for zsh: eval "$(nebh completion zsh)"
autoload -U +X bashcompinit && bashcompinit
"""


def completion(options: argparse.Namespace, out: Output) -> int:  # noqa: ARG001 - the shape of a command
    """Print a completion script."""
    from nebh.cli.main import build_parser

    words = dict(_walk(build_parser(), ()))
    sys.stdout.write(_fish(words) if options.shell == "fish" else _bash(words, zsh=options.shell == "zsh"))
    return 0


def _walk(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    options: list[str] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to walk its tree
        options += [name for name in action.option_strings if name.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - as above
            options += list(action.choices)
            for name, child in action.choices.items():
                yield from _walk(child, (*path, name))
        elif action.choices:
            options += [str(one) for one in action.choices]
    yield path, tuple(options)


def _bash(words: Words, *, zsh: bool) -> str:
    paths = "|".join(f'" {" ".join(path)}"' for path in words if path)
    cases = "\n".join(
        f'        "{" " + " ".join(path) if path else ""}") words="{" ".join(options)}" ;;'
        for path, options in words.items()
    )
    return (_ZSH if zsh else "") + _BASH.format(paths=f"                {paths}", cases=cases)


def _fish(words: Words) -> str:
    lines = ["# nebh completion for fish: nebh completion fish | source"]
    top = [name for name in words[()] if not name.startswith("--")]
    for path, options in words.items():
        if not path:
            condition = f"not __fish_seen_subcommand_from {' '.join(top)}"
        else:
            condition = " && ".join(f"__fish_seen_subcommand_from {word}" for word in path)
        for option in options:
            what = f"-l {option.removeprefix('--')}" if option.startswith("--") else f"-a {option}"
            lines.append(f"complete -c nebh -n '{condition}' {what}")
    return "\n".join(lines) + "\n"
