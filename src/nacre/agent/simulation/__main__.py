"""Give an order to a simulation that runs: `python -m nacre.agent.simulation SOCKET silence 50`."""

import argparse
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from nacre.agent.simulation.orders import VERBS

_ANSWER_S = 60.0


def main(arguments: Sequence[str]) -> int:
    """Send the order and print the answer. Returns the exit code: 0 if it was obeyed."""
    parser = argparse.ArgumentParser(
        prog="python -m nacre.agent.simulation", description="Give an order to a simulation that runs."
    )
    parser.add_argument("socket", type=Path, help="its `simulate_socket`")
    parser.add_argument("order", choices=VERBS)
    parser.add_argument("nodes", nargs="*", help="how many nodes, chosen by chance, or their names")
    given = parser.parse_args(arguments)
    try:
        answer = order(given.socket, " ".join([given.order, *given.nodes]))
    except OSError as error:
        sys.stderr.write(f"no simulation answers at {given.socket}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    return 0 if answer["ok"] is True else 1


def order(path: Path, text: str) -> dict[str, object]:
    """Give an order and return the answer. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_ANSWER_S)
        line.connect(str(path))
        line.sendall(f"{text}\n".encode())
        answer: dict[str, object] = json.loads(line.makefile().readline() or "{}")
    return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
