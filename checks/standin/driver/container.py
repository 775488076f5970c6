"""A node as a container that boots systemd: root file system, boot, freeze, power cut.

Its root is the base tree of checks/rig under a layer on an ext4 of its own, so that a power cut loses what was not flushed to the disk, and
only that. The store is mounted read-only.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

from network import Network

FS_IOC_SHUTDOWN = 0x8004587D  # ext4: what is not on the disk yet never gets there
NO_LOG_FLUSH = 2
FITHAW = 0xC0045878
LOOP_CTL_GET_FREE, LOOP_CONFIGURE, AUTOCLEAR = 0x4C82, 0x4C0A, 4
EXIT_REBOOT = 133  # systemd-nspawn(1)
PATH = "/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NotBooted(Exception):
    """The node did not boot: nothing was tested."""


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def wait_for(seconds: float, what: str, condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise NotBooted(what)
        time.sleep(0.02)
    return found


class Container:
    def __init__(self, name: str, node: dict[str, Any], network: Network) -> None:
        self.name, self.node, self.network = name, node, network
        self.base = Path(os.environ["RIG_BASE"])
        self.dir = Path(os.environ["RIG_WORK"]) / name
        self.image, self.disk, self.root = self.dir / "disk.img", self.dir / "disk", self.dir / "root"
        self.groups = [Path("/sys/fs/cgroup") / h / os.environ["RIG_ID"] / name for h in ("unified", "systemd")]
        self.console = self.dir / "console"
        self.shared = Path(os.environ["RIG_WORK"]) / "shared"
        self.process: subprocess.Popen[bytes] | None = None
        self.leader: int | None = None
        self.allow_reboot = self.rebooting = False
        self.disks: list[tuple[int, str, str]] = []  # of virtualisation.emptyDiskImages: open descriptor, loop device, name in the node

    # The root file system.

    def make(self) -> None:
        """Once, before the first boot: the node's layer, with what evaluation gave."""
        for path in (self.disk, self.root, self.shared):
            path.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(self.node["diskSize"] << 20)
        # Nothing reserved for root: overlayfs writes as root, whoever asks it to.
        run("mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", "-i", "8192", self.image)
        for number, mib in enumerate(self.node["emptyDisks"]):
            self.disks.append((*self.empty_disk(self.dir / f"empty-{number}.img", mib << 20), f"/dev/vd{'bcdefgh'[number]}"))
        self.mount()
        etc, toplevel = self.root / "etc", Path(self.node["toplevel"])
        for directory, _, files in os.walk(toplevel / "etc", followlinks=True):
            to = etc / Path(directory).relative_to(toplevel / "etc")
            to.mkdir(parents=True, exist_ok=True)
            for file in files:
                link, source = to / file, Path(directory) / file
                link.unlink(missing_ok=True)
                # A wants/ link stays what it is; all else points into the store, as on NixOS.
                target = os.readlink(source)
                link.symlink_to(target if target.startswith("..") else os.path.realpath(source))
        (etc / "hosts").write_text(self.network.hosts())
        (etc / "machine-id").write_text(uuid.uuid4().hex + "\n")
        (etc / "tmpfiles.d/stand-in.conf").write_text(f"L+ /run/current-system - - - - {toplevel}\n")
        (self.root / "var/log/journal").mkdir(exist_ok=True)
        for below in ("nix/store", "tmp/shared"):
            (self.root / below).mkdir(parents=True, exist_ok=True)
        sysusers = etc / "sysusers.d"
        run("systemd-sysusers", f"--root={self.root}", *(p.resolve() for p in sysusers.glob("*.conf")))

    def mount(self) -> None:
        run("mount", "-o", "loop", self.image, self.disk)
        for part in ("up", "work"):
            (self.disk / part).mkdir(exist_ok=True)
        layers = f"lowerdir={self.base},upperdir={self.disk}/up,workdir={self.disk}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, self.root)

    def unmount(self) -> None:
        run("umount", self.root)
        run("umount", self.disk)
        wait_for(10, f"{self.name}: its disk stays in use", lambda: not loops(self.image))

    def empty_disk(self, image: Path, size: int) -> tuple[int, str]:
        """A block device that goes away with this process."""
        with open(image, "wb") as file:
            file.truncate(size)
        control, backing = os.open("/dev/loop-control", os.O_RDWR), os.open(image, os.O_RDWR)
        try:
            while True:
                device = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
                loop = os.open(device, os.O_RDWR)
                # struct loop_config: fd, block_size, then loop_info64, whose flags are at byte 52 of it
                config = bytearray(304)
                struct.pack_into("=I", config, 0, backing)
                struct.pack_into("=I", config, 8 + 52, AUTOCLEAR)
                try:
                    fcntl.ioctl(loop, LOOP_CONFIGURE, config)
                    return loop, device
                except OSError:  # another process was quicker
                    os.close(loop)
        finally:
            os.close(control)
            os.close(backing)

    # Its life.

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        """Starts the boot; wait_booted waits for its end."""
        if not self.image.exists():
            try:
                self.make()
            except (subprocess.CalledProcessError, OSError) as e:
                raise NotBooted(f"{self.name}: no root file system: {e}") from e
        elif not os.path.ismount(self.root):
            self.mount()
        for group in self.groups:
            group.mkdir(parents=True, exist_ok=True)
        binds = [f"--bind-ro={os.path.realpath('/nix/store')}:/nix/store", f"--bind={self.shared}:/tmp/shared"]
        binds += [f"--bind={device}:{name}" for _, device, name in self.disks]
        command = ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}", "--register=no", "--keep-unit",
                   "--console=passive", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--kill-signal=SIGRTMIN+3",
                   f"--network-namespace-path=/run/netns/{self.name}", "--capability=CAP_NET_ADMIN,CAP_BPF,CAP_PERFMON",
                   "--system-call-filter=bpf", *binds, "--boot"]  # fmt: skip

        def into_groups() -> None:
            for group in self.groups:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        environment = {"PATH": os.environ["PATH"], "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with open(self.console, "ab") as out:
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=into_groups, env=environment)
            except (OSError, subprocess.SubprocessError) as e:
                raise NotBooted(f"{self.name}: {e}") from e
        self.leader = None

    def wait_booted(self) -> None:
        """Waits until its systemd has come up. A node that rebooted is started again first."""
        if self.rebooting and self.process is not None:
            if self.process.wait() != EXIT_REBOOT or not self.allow_reboot:
                raise NotBooted(f"{self.name} is off; who reboots it starts it with allow_reboot = True")
            self.start()
        self.rebooting = False
        self.leader = wait_for(30, f"{self.name} has no systemd", self.find_leader)
        wait_for(60, f"{self.name} did not come up", self.came_up)

    def find_leader(self) -> int | None:
        assert self.process is not None
        pid = self.process.pid
        if self.process.poll() is not None:
            last = self.console.read_text(errors="replace").splitlines()[-5:]
            raise NotBooted(f"{self.name} did not boot: {' '.join(last)}")
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            try:
                status = dict(line.split(":", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
            except OSError:
                continue
            if status["Name"].strip() == "systemd" and status["NSpid"].split()[-1] == "1":
                return int(child)
        return None

    def came_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise NotBooted(f"{self.name} went down while it booted")
        state = subprocess.run(self.inside("systemctl", "is-system-running"), capture_output=True, text=True).stdout.strip()
        return state in ("running", "degraded")

    def inside(self, *command: str) -> list[str]:
        environment = ["env", "-i", f"PATH={PATH}", "HOME=/root", "TERM=dumb", "LANG=C.UTF-8"]
        return ["nsenter", f"--target={self.leader}", "--all", "--", *environment, *command]

    def signal(self, number: int) -> None:
        if self.leader is not None:
            os.kill(self.leader, number)

    def reboot(self, number: int) -> None:
        """Sends it the signal that makes it reboot; wait_booted waits for the end of that."""
        self.signal(number)
        self.leader, self.rebooting = None, True

    def wait_off(self) -> None:
        if self.process is not None:
            self.process.wait()
            self.kill()

    def freeze(self, frozen: bool) -> None:
        (self.groups[0] / "payload/cgroup.freeze").write_text(str(int(frozen)))

    def cut_power(self) -> None:
        """All disks keep what was flushed to them; nothing of the node runs on, not even to see that its disks are gone."""
        group = self.groups[0]
        (group / "cgroup.freeze").write_text("1")
        wait_for(5, f"{self.name} does not freeze", lambda: "frozen 1" in (group / "cgroup.events").read_text())
        for mount in self.mounts():
            request(mount, FS_IOC_SHUTDOWN, struct.pack("=I", NO_LOG_FLUSH))
        self.kill()

    def mounts(self) -> list[Path]:
        """Where the node's disks are mounted."""
        found = [self.disk]
        try:
            lines = Path(f"/proc/{self.leader}/mountinfo").read_text().splitlines()
        except OSError:  # it has ended, and all mounts of its own with it
            return found
        for fields in map(str.split, lines):
            source = fields[fields.index("-") + 2]
            if any(source == name for _, _, name in self.disks):
                found.append(Path(f"/proc/{self.leader}/root{fields[4]}"))
        return found

    def kill(self) -> None:
        """Ends all of it at once and unmounts its root; what is in the page cache still reaches its disks."""
        if self.process is None:
            return
        group = self.groups[0]
        for mount in self.mounts():  # who waits for a frozen disk can't die
            with suppress(OSError):
                request(mount, FITHAW, bytes(4))
        (group / "cgroup.kill").write_text("1")
        self.process.wait()
        wait_for(20, f"{self.name} does not end", lambda: "populated 0" in (group / "cgroup.events").read_text())
        # What is born into a group that was killed once is killed at birth: the next boot needs a new one.
        for tree in self.groups:
            for directory, _, _ in os.walk(tree, topdown=False):
                os.rmdir(directory)
        self.process = self.leader = None
        self.rebooting = False
        self.unmount()


def request(mount: Path, number: int, argument: bytes) -> None:
    """One ioctl(2) on a file system."""
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, number, argument)
    finally:
        os.close(fd)


def loops(image: Path) -> str:
    return subprocess.run(["losetup", "--associated", str(image)], capture_output=True, text=True).stdout
