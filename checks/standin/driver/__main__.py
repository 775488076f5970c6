"""nixos-test-driver of the stand-in: boots the nodes of a scenario as containers and runs its testScript.

Started by checks/rig, which has made the namespaces that all of it lives in: python3 DRIVER CONFIG.json
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from container import Container, NotBooted
from machine import Logger, Machine, RequestedAssertionFailed, Tester, retry
from network import Network


class Driver:
    def __init__(self, config: dict[str, Any], logger: Logger) -> None:
        self.logger = logger
        network = Network(sorted(config["nodes"]))
        self.machines = [
            Machine(name, Container(name, node, network), logger)
            for name, node in sorted(config["nodes"].items())
        ]

    def start_all(self) -> None:
        with self.logger.nested("start all nodes"):
            for machine in self.machines:
                machine.start()

    def join_all(self) -> None:
        with self.logger.nested("wait for all nodes to power off"):
            for machine in self.machines:
                machine.wait_for_shutdown()

    @contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        with self.logger.nested(f"subtest: {name}"):
            yield

    def symbols(self) -> dict[str, Any]:
        """What a testScript can name."""
        found: dict[str, Any] = {
            "driver": self,
            "join_all": self.join_all,
            "log": self.logger,
            "retry": retry,
            "start_all": self.start_all,
            "subtest": self.subtest,
            "t": Tester(),
        }
        found.update((m.name.replace("-", "_"), m) for m in self.machines)
        if len(self.machines) == 1:
            found["machine"] = self.machines[0]
        return found


def main(path: str) -> int:
    config = json.loads(Path(path).read_text())
    logger = Logger()
    logger.log(f"{config['name']}: nodes as containers, under the stand-in for the NixOS test driver")
    driver = Driver(config, logger)

    def too_late(*_: object) -> None:
        raise RequestedAssertionFailed(f"not done within {config['globalTimeout']} seconds")

    signal.signal(signal.SIGALRM, too_late)
    signal.alarm(config["globalTimeout"])
    script = config["testScript"]
    try:
        exec(compile(script, config["name"], "exec"), driver.symbols())
    except NotBooted as e:
        logger.log(f"not run: {config['name']}: {e}")
        return 3
    except Exception as e:
        signal.alarm(0)
        lines = script.splitlines()
        for frame in traceback.extract_tb(e.__traceback__):
            if frame.filename == config["name"] and frame.lineno:
                logger.log(f"  line {frame.lineno} of the testScript: {lines[frame.lineno - 1].strip()}")
        logger.log(f"FAILED: {type(e).__name__}: {e}")
        if not isinstance(e, (RequestedAssertionFailed, AssertionError)):
            traceback.print_exc()
        for machine in filter(Machine.is_up, driver.machines):
            machine.container.freeze(False)
            machine.log("the last of its journal:")
            print(machine.execute("journalctl --no-pager -n 40 -o short-monotonic", timeout=20)[1], flush=True)
        return 1
    finally:
        signal.alarm(0)
        for machine in driver.machines:
            machine.container.kill()
    logger.log("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
