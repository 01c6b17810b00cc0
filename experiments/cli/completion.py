"""Complete words of the one command in a shell: programs by name, options of a run by Hydra.

Hydra's own completion serves a program of one word. Ours has two, `bilevel-finetune run`, so the
shell asks this, and this asks Hydra about the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from bilevel.errors import UserError, listed

__all__ = ["ASKED", "SHELLS", "candidates", "script"]

SHELLS = ("bash", "zsh")
ASKED = "--complete"  # by the shell, with the line up to the cursor
# Programs whose words are options of a run.
OF_RUNS = ("run", "check_hypergradient", "check-hypergradient")

BASH = """_COMMAND() {
    local line="${COMP_LINE:0:COMP_POINT}" prefix="" IFS=$' \\n'
    local current="${line##* }"
    # The shell parts words at =, and wants what comes after it alone.
    case "$COMP_WORDBREAKS" in *=*) case "$current" in *=*) prefix="${current%=*}=" ;; esac ;; esac
    COMPREPLY=($(bilevel-finetune --complete "$line" 2> /dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}
complete -o nospace -o default -F _COMMAND bilevel-finetune
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def script(shell: str) -> str:
    """What a shell has to read: ``eval "$(bilevel-finetune --completion bash)"``.

    Raises:
        UserError: another shell.
    """
    if shell not in SHELLS:
        raise UserError(f"--completion {shell}: allowed are {listed(SHELLS)}")
    return (ZSH if shell == "zsh" else "") + BASH.replace("_COMMAND", "_bilevel_finetune")


def candidates(line: str, programs: Sequence[str]) -> None:
    """Print what the last word of a line may be, parted by spaces.

    Args:
        line: up to the cursor.
        programs: that the second word may name.
    """
    words = line.split(" ")
    if len(words) <= 2:
        print(" ".join(f"{name} " for name in programs if name.startswith(words[-1])))
    elif words[1] in OF_RUNS:
        from experiments.config import hydra_runs  # here: it loads Hydra

        os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])  # as Hydra is asked
        hydra_runs.answer(["--shell-completion", "query=bash"], None)
