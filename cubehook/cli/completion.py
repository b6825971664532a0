"""``cubehook completion``: what a shell has to be told to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_CUBEHOOK_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that lets a shell complete commands and options.

    \b
    bash  (4.4 or newer) add to ~/.bashrc:
            eval "$(cubehook completion bash)"
    zsh   add to ~/.zshrc, after compinit:
            eval "$(cubehook completion zsh)"
    fish  once:
            cubehook completion fish > ~/.config/fish/completions/cubehook.fish

    To start a shell faster, write the script to a file once, and source that.

    \b
    Exit status:
      0  done
      2  the shell is none of these
    """
    kind = get_completion_class(shell)
    assert kind is not None  # one of click's own
    made = kind(context.find_root().command, {}, "cubehook", VARIABLE)
    # Not the class's own method: for bash that runs one, to look at its version.
    click.echo(ShellComplete.source(made))
