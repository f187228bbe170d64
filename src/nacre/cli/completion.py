"""`nacre completion`: scripts that complete words, options, and names of what exists."""

from typing import Annotated, Literal

from cyclopts import App, Parameter


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Which shell.")],
    /,
    *,
    commands: Annotated[App, Parameter(parse=False)],
) -> None:
    """Print a completion script. For bash: eval "$(nacre completion bash)"."""
    print(commands.generate_completion(shell=shell))
