"""A Docker engine of its own: a network namespace with a way out, and dockerd in namespaces that end with it.

Nothing of it is seen from outside: its ports, bridges and firewall rules are the namespace's, its containers end with
dockerd, and its data folder is removed. Outside it adds one pair of interfaces and three firewall rules, and takes them
away again.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from tests.stack.programs import Unavailable

NAMESPACE: Final = "mlops-stack"
OUTSIDE, INSIDE, SUBNET = "10.213.77.1", "10.213.77.2", "10.213.77.0/30"
START_SECONDS: Final = 60.0
FORWARDING: Final = Path("/proc/sys/net/ipv4/ip_forward")
METADATA_SERVER: Final = "169.254.169.254"
"""Google's libraries ask it for credentials; in here nobody answers, at once."""


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True, text=True)


class Engine:
    """A running dockerd. `environment` is what a client needs to find it.

    Attributes:
        enter: words before a command that is to run in the engine's network.
        environment: DOCKER_HOST and DOCKER_CONFIG.
    """

    def __init__(self, folder: Path, client_config: Path) -> None:
        self._folder = folder
        self._socket = folder / "docker.sock"
        self._launcher: subprocess.Popen[bytes] | None = None
        self.enter = ("nsenter", f"--net=/run/netns/{NAMESPACE}")
        self.environment = {"DOCKER_HOST": f"unix://{self._socket}", "DOCKER_CONFIG": str(client_config)}

    def start(self) -> None:
        """Start dockerd and wait until it answers.

        Raises:
            Unavailable: it did not start; the message has the end of its log.
        """
        log = self._folder / "dockerd.log"
        command = [
            # If this program is killed, dockerd is told to stop.
            *("setpriv", "--pdeathsig", "KILL", *self.enter),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=SIGTERM", "--mount-proc", "dockerd"),
            *("--host", f"unix://{self._socket}", "--data-root", f"{self._folder}/data"),
            *("--exec-root", f"{self._folder}/exec", "--pidfile", f"{self._folder}/docker.pid"),
        ]
        (self._folder / "docker.pid").unlink(missing_ok=True)
        with log.open("ab") as output:
            self._launcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._launcher.poll() is None:
            if self.docker("version", check=False).returncode == 0:
                return
            time.sleep(0.2)
        self.stop()
        raise Unavailable("dockerd did not start: " + " / ".join(log.read_text("utf-8", "replace").splitlines()[-3:]))

    def stop(self) -> None:
        """Stop dockerd and all that runs in it."""
        if self._launcher is None:
            return
        inner = self.dockerd_pid()
        if inner is not None:
            os.kill(inner, signal.SIGTERM)
        try:
            self._launcher.wait(60)
        except subprocess.TimeoutExpired:
            if inner is not None:
                # The end of a namespace's first process ends every other.
                os.kill(inner, signal.SIGKILL)
            self._launcher.wait()
        self._launcher = None

    def dockerd_pid(self) -> int | None:
        """The process id of dockerd, seen from outside; None when it does not run."""
        if self._launcher is None:
            return None
        children = Path(f"/proc/{self._launcher.pid}/task/{self._launcher.pid}/children")
        try:
            return next((int(pid) for pid in children.read_text("utf-8").split()), None)
        except OSError:
            return None

    def docker(self, *arguments: str, check: bool = True, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run the docker client.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL, **options}
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            ["docker", *arguments], check=False, env=environment, capture_output=True, text=True, **given
        )
        if check and done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
        return done

    def kill(self, container: str) -> None:
        """End a container's main process with signal 9, as the kernel does when memory is short: Docker restarts it."""
        pid = self.docker("inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        _run("nsenter", f"--target={self.dockerd_pid()}", "--pid", "--mount", "kill", "-9", pid)


@contextmanager
def network() -> Iterator[None]:
    """The network namespace, with a way out through this machine's own network.

    Raises:
        Unavailable: it cannot be made.
    """
    outer = f"v-{NAMESPACE}"[:15]
    _remove_network(outer)
    rules = [
        ("nat", "POSTROUTING", "-s", SUBNET, "-j", "MASQUERADE"),
        ("filter", "FORWARD", "-i", outer, "-j", "ACCEPT"),
        ("filter", "FORWARD", "-o", outer, "-j", "ACCEPT"),
    ]
    with ExitStack() as undo:
        try:
            undo.callback(_remove_network, outer)
            _run("ip", "netns", "add", NAMESPACE)
            _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE)
            _run("ip", "addr", "add", f"{OUTSIDE}/30", "dev", outer)
            _run("ip", "link", "set", outer, "up")
            _run("ip", "-n", NAMESPACE, "addr", "add", f"{INSIDE}/30", "dev", "eth0")
            _run("ip", "-n", NAMESPACE, "link", "set", "eth0", "up")
            _run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
            _run("ip", "-n", NAMESPACE, "route", "add", "default", "via", OUTSIDE)
            _run("ip", "-n", NAMESPACE, "route", "add", "unreachable", METADATA_SERVER)
            before = FORWARDING.read_text("utf-8")
            undo.callback(FORWARDING.write_text, before, "utf-8")
            FORWARDING.write_text("1\n", "utf-8")
            for table, chain, *rule in rules:
                _run("iptables", "-w", "-t", table, "-I", chain, *rule)
                undo.callback(_run, "iptables", "-w", "-t", table, "-D", chain, *rule, check=False)
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            raise Unavailable(f"no network namespace can be made here: {said.strip()}") from error
        yield


def _remove_network(outer: str) -> None:
    _run("ip", "netns", "del", NAMESPACE, check=False)
    _run("ip", "link", "del", outer, check=False)


@contextmanager
def running(folder: Path, client_config: Path) -> Iterator[Engine]:
    """An engine in `folder`, which is emptied before and removed afterwards.

    Raises:
        Unavailable: it cannot be started here.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    engine = Engine(folder, client_config)
    with network():
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
            # Hundreds of thousands of files, which Python takes minutes for.
            _run("rm", "-rf", str(folder), check=False)
