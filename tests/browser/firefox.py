"""A Firefox without a window, told what to do over Marionette, the protocol built into it."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("firefox-esr", "firefox")
PREFERENCES = {
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "devtools.console.stdout.content": True,  # what a page logs goes to the browser's output
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 1,  # to a port where nobody listens: it calls no one
    "network.proxy.socks": "127.0.0.1",
    "network.proxy.socks_port": 9,
}


def found() -> str | None:
    """Return the path of a Firefox, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Firefox:
    """One session: messages are `LENGTH:[0, number, command, parameters]`."""

    def __init__(self, connection: socket.socket):
        self._stream = connection.makefile("rwb")
        self._count = 0
        self._read()  # who it is
        self("WebDriver:NewSession")
        self("WebDriver:SetTimeouts", script=120_000, pageLoad=120_000)

    def __call__(self, command: str, **parameters: Any) -> Any:
        self._count += 1
        text = json.dumps([0, self._count, command, parameters]).encode()
        self._stream.write(b"%d:%s" % (len(text), text))
        self._stream.flush()
        _, _, error, result = self._read()
        if error:
            raise RuntimeError(f"{command}: {error['error']}: {error['message']}")
        return (
            result.get("value") if isinstance(result, dict) and set(result) == {"value"} else result
        )

    def evaluate(self, expression: str, *arguments: Any) -> Any:
        """Return the value of an expression over `given`, the arguments; a promise is awaited."""
        script = f"const given = Array.from(arguments); return (async () => ({expression}))();"
        return self("WebDriver:ExecuteScript", script=script, args=list(arguments), sandbox=None)

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            one = self._stream.read(1)
            if not one:
                raise RuntimeError("Firefox closed the connection")
            length += one
        return json.loads(self._stream.read(int(length[:-1])))


@contextmanager
def running(folder: Path, log: Path) -> Iterator[Firefox]:
    """Run a Firefox with a profile of its own; end it afterwards."""
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    chosen = {**PREFERENCES, "marionette.port": port}
    lines = (f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in chosen.items())
    (folder / "user.js").write_text("".join(lines))
    command = [found(), "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            with _connected(port) as connection:
                yield Firefox(connection)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _connected(port: int, seconds: float = 90) -> socket.socket:
    """Wait until Firefox listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=150)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
