"""The calls that a testScript has: names, arguments and meaning are those of the NixOS test driver; the code is this project's own."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

from container import Container

POWEROFF = signal.SIGRTMIN + 4  # systemd(1)
CTRL_ALT_DEL = signal.SIGINT  # what the keys are to systemd


class RequestedAssertionFailed(AssertionError):
    """Something that the testScript asked for is not so."""


class Tester(unittest.TestCase):
    """t of a testScript: t.assertEqual and its like."""

    failureException = RequestedAssertionFailed


class Logger:
    def __init__(self) -> None:
        self.began = time.monotonic()
        self.depth = 0

    def log(self, message: str, attributes: dict[str, str] = {}) -> None:
        node = f"{attributes['machine']}: " if "machine" in attributes else ""
        print(f"{time.monotonic() - self.began:8.2f} {'  ' * self.depth}{node}{message}", flush=True)

    def info(self, *args: Any, **kwargs: Any) -> None:
        self.log(*args, **kwargs)

    def warning(self, *args: Any, **kwargs: Any) -> None:
        self.log(*args, **kwargs)

    @contextmanager
    def nested(self, message: str, attributes: dict[str, str] = {}) -> Iterator[None]:
        self.log(message, attributes)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1


def retry(fn: Callable[[bool], bool], timeout_seconds: int = 900) -> None:
    """Calls fn(False) once a second until it gives true; at the end once more as fn(True)."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_seconds:
        if fn(False):
            return
        time.sleep(1)
    if not fn(True):
        raise RequestedAssertionFailed(f"action timed out after {time.monotonic() - began:.2f} seconds (timeout={timeout_seconds})")


class Machine:
    def __init__(self, name: str, container: Container, logger: Logger) -> None:
        self.name, self.container, self.logger = name, container, logger

    def log(self, msg: str) -> None:
        self.logger.log(msg, {"machine": self.name})

    def nested(self, msg: str, attrs: dict[str, str] = {}):  # type: ignore[no-untyped-def]
        return self.logger.nested(msg, {"machine": self.name, **attrs})

    # Its life.

    def is_up(self) -> bool:
        return self.container.running and self.container.leader is not None

    def start(self, allow_reboot: bool = False) -> None:
        """Starts it, if it is off, and does not wait until it has booted."""
        if not self.container.running:
            self.log("starting")
            self.container.allow_reboot = allow_reboot
            self.container.start()

    def connect(self) -> None:
        """Waits until it has booted; starts it if it is off."""
        if self.is_up():
            return
        with self.nested("waiting for the boot to finish"):
            self.start()
            self.container.wait_booted()

    def shutdown(self) -> None:
        """Powers it off, in order, and waits for the end."""
        if self.container.running:
            self.connect()
            self.container.signal(POWEROFF)
            self.wait_for_shutdown()

    def wait_for_shutdown(self) -> None:
        if self.container.running:
            with self.nested("waiting for it to power off"):
                self.container.wait_off()

    def crash(self) -> None:
        """A sudden power failure."""
        if self.container.running:
            self.connect()
            self.log("power cut")
            self.container.cut_power()

    def reboot(self) -> None:
        """Ctrl+Alt+Delete. It comes up again if it was started with allow_reboot = True."""
        self.connect()
        self.container.reboot(CTRL_ALT_DEL)

    def block(self) -> None:
        """Unplugs its Ethernet cable."""
        self.log("unplugged")
        self.container.network.plug(self.name, False)

    def unblock(self) -> None:
        self.log("plugged in")
        self.container.network.plug(self.name, True)

    def send_monitor_command(self, command: str) -> str:
        """Of QEMU's monitor: stop (all of it stands still), cont, quit."""
        self.log(f"monitor: {command}")
        if command == "quit":
            self.container.cut_power()
        else:
            self.container.freeze({"stop": True, "cont": False}[command])
        return ""

    # Commands.

    def execute(
        self, command: str, check_return: bool = True, check_output: bool = True, timeout: int | None = 900
    ) -> tuple[int, str]:
        """Runs a shell command; gives its status and what it wrote to stdout. It ends when stdout is closed."""
        self.connect()
        limit = [] if timeout is None else ["timeout", str(timeout)]
        line = self.container.inside(*limit, "bash", "-c", f"set -euo pipefail; {command}")
        if not check_output:
            subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            return -2, ""
        done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        return done.returncode if check_return else -1, done.stdout.decode(errors="replace")

    def succeed(self, *commands: str, timeout: int | None = None) -> str:
        output = ""
        for command in commands:
            with self.nested(f"must succeed: {shorten(command)}"):
                status, out = self.execute(command, timeout=timeout)
                if status != 0:
                    self.log(f"output: {out}")
                    raise RequestedAssertionFailed(f"command `{command}` failed (exit code {status})")
                output += out
        return output

    def fail(self, *commands: str, timeout: int | None = None) -> str:
        output = ""
        for command in commands:
            with self.nested(f"must fail: {shorten(command)}"):
                status, out = self.execute(command, timeout=timeout)
                if status == 0:
                    raise RequestedAssertionFailed(f"command `{command}` unexpectedly succeeded")
                output += out
        return output

    def wait_until_succeeds(self, command: str, timeout: int = 900) -> str:
        return self._repeat(f"waiting for success: {shorten(command)}", command, lambda status: status == 0, timeout)

    def wait_until_fails(self, command: str, timeout: int = 900) -> str:
        return self._repeat(f"waiting for failure: {shorten(command)}", command, lambda status: status != 0, timeout)

    def _repeat(self, what: str, command: str, good: Callable[[int], bool], timeout: int) -> str:
        output = ""

        def attempt(_last: bool) -> bool:
            nonlocal output
            status, output = self.execute(command, timeout=timeout)
            return good(status)

        with self.nested(what):
            retry(attempt, timeout)
        return output

    def sleep(self, secs: int) -> None:
        self.succeed(f"sleep {secs}")

    def wait_for_file(self, filename: str, timeout: int = 900) -> None:
        with self.nested(f"waiting for file '{filename}'"):
            retry(lambda _: self.execute(f"test -e {filename}")[0] == 0, timeout)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None:
        with self.nested(f"waiting for TCP port {port} on {addr}"):
            retry(lambda _: self._answers(addr, port), timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: int = 900) -> None:
        with self.nested(f"waiting for TCP port {port} on {addr} to be closed"):
            retry(lambda _: not self._answers(addr, port), timeout)

    def _answers(self, addr: str, port: int) -> bool:
        return self.execute(f": </dev/tcp/{addr}/{port} 2>/dev/null")[0] == 0

    # systemd.

    def systemctl(self, q: str, user: str | None = None) -> tuple[int, str]:
        if user is not None:
            return self.execute(f"systemctl --user --machine={user}@.host {q}")
        return self.execute(f"systemctl {q}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        return self._show(unit, "", user)

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        return self._show(unit, f" --property={property}", user)[property]

    def _show(self, unit: str, options: str, user: str | None) -> dict[str, str]:
        status, lines = self.systemctl(f'--no-pager show "{unit}"{options}', user)
        if status != 0:
            raise RequestedAssertionFailed(f'systemctl show of unit "{unit}" failed with exit code {status}')
        return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = 900) -> None:
        """Until it is active. One that failed, or is inactive without a job that would change that, is an error."""

        def is_active(_last: bool) -> bool:
            state = self.get_unit_property(unit, "ActiveState", user)
            if state == "failed":
                raise RequestedAssertionFailed(f'unit "{unit}" reached state "{state}"')
            if state == "inactive" and "No jobs" in self.systemctl("list-jobs --full 2>&1", user)[1]:
                if self.get_unit_property(unit, "ActiveState", user) == state:
                    raise RequestedAssertionFailed(f'unit "{unit}" is inactive and there are no pending jobs')
            return state == "active"

        with self.nested(f"waiting for unit {unit}"):
            retry(is_active, timeout)

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise RequestedAssertionFailed(f"unit '{unit}' is to be in state '{require_state}' and is in state '{state}'")

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        return self.systemctl(f"stop {jobname}", user)

    # Files.

    def copy_from_host(self, source: str, target: str) -> None:
        """Copies a file or directory of the machine that runs the test to the node."""
        with tempfile.TemporaryDirectory(dir=self.container.shared) as passing:
            between = Path(passing) / Path(source).name
            copy(Path(source), between)
            self.succeed(
                shlex.join(["mkdir", "-p", str(Path(target).parent)]),
                shlex.join(["cp", "-r", f"/tmp/shared/{between.parent.name}/{between.name}", target]),
            )

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """Copies a file or directory of the node to below the directory from which the test was started."""
        with tempfile.TemporaryDirectory(dir=self.container.shared) as passing:
            between = Path(passing) / Path(source).name
            self.succeed(shlex.join(["cp", "-r", source, f"/tmp/shared/{between.parent.name}/{between.name}"]))
            target = Path.cwd() / target_dir / between.name
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(between, target)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def shorten(command: str) -> str:
    line = " ".join(command.split())
    return line if len(line) <= 160 else line[:157] + "..."
