"""A simulated fleet beside a platform: one process of simulated nodes, and its orders. For flow tests and benches."""

import json
import socket
import sys
import time
from typing import Any

from support.patience import Patience
from support.platform import Platform, Program


class Fleet:
    """A running simulation."""

    def __init__(self, cloud: Platform, nodes: int, *, uses: int = 0, **settings: Any) -> None:
        token = cloud.post("/v1/nodes/tokens", {"uses": uses or nodes})
        directory = cloud.root / "fleet"
        directory.mkdir(exist_ok=True)
        config = cloud.root / "fleet.toml"
        values = {
            "data_dir": str(directory),
            "run_dir": str(cloud.root / "fleet-run"),
            "join": token["join"],
            "simulate": nodes,
            "log_level": "warning",
            **settings,
        }
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        self.nodes = nodes
        self.socket = cloud.root / "fleet-run" / "simulation.sock"
        self.program = Program(
            "fleet",
            [sys.executable, "-m", "nacre.agent.main", "--config", str(config)],
            cloud.root / "fleet.log",
        )
        self.program.start()
        cloud.agents.append(self.program)

    def order(self, text: str) -> Any:
        """Give an order and return the answer."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(60)
            line.connect(str(self.socket))
            line.sendall(f"{text}\n".encode())
            answer = json.loads(line.makefile().readline())
        assert answer["ok"], answer
        return answer

    def wait(self, *, timeout: float = 60, every: float = 0.1) -> None:
        """Return when every node is linked."""
        patience = Patience(timeout)
        while not self.socket.exists() or self.order("status")["linked"] < self.nodes:
            assert self.program.alive(), self.program.tail()
            assert not patience.is_over(), f"not all linked within {timeout} s: {self.order('status')}"
            time.sleep(every)
