"""Wine: its environment, prefix and server; a Windows program run like a local one."""

import contextlib
import os
import select
import shutil
import signal
import stat
import subprocess
import threading
from pathlib import Path

from .steps import LAB, Failure, run

PREFIX = LAB / "prefix"
# The server outlives the programs by so much: a Python then starts in 0.1 s instead of 2.5 s.
SERVER_SECONDS = 600


def program(name):
    """The path of one of Wine's own programs.

    Debian's /usr/bin/wine is a script that looks for a 32-bit Wine first.
    """
    path = shutil.which(name, path=f"/usr/lib/wine:{os.environ.get('PATH', os.defpath)}")
    if path is None:
        raise Failure(f"{name} is not installed: run `python3 dev.py setup`")
    return path


def environment():
    """The environment for Windows programs: this process's, with the settings that Wine needs."""
    env = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "VIRTUAL_ENV")
    }
    env["WINEPREFIX"] = str(PREFIX)
    env.setdefault("WINEDEBUG", "-all")
    # No .NET and no HTML engine to install; no WMI, through which platform.uname() would abort the
    # process.
    env.setdefault("WINEDLLOVERRIDES", "mscoree,mshtml,wbemprox=")
    # Wine takes its code page from the locale, which is C in a container; nothing in a test should
    # depend on it.
    env.setdefault("PYTHONUTF8", "1")
    return env


def windows_path(path):
    """The Windows name of a file of this system."""
    return "Z:" + str(path).replace("/", "\\")


def make_prefix():
    if PREFIX.exists():
        stop_server()
        shutil.rmtree(PREFIX)
    wine, env = program("wine64"), environment()
    run([wine, "wineboot", "-i"], env=env, hint="Wine cannot make its prefix")
    # Wine 8 starts as Windows 7, in which Python 3.12 and later end at once.
    run([wine, "winecfg", "-v", "win10"], env=env, hint="Wine cannot be set to Windows 10")


def start_server():
    """Start the prefix's server if it does not run, with Windows's services."""
    started = subprocess.run(
        [program("wineserver"), f"-p{SERVER_SECONDS}"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if started.returncode == 0:
        # The first program brings up the services, which inherit its streams and keep them: a
        # reader of its output would wait for the end of the server. So the first program is one
        # that nobody reads.
        subprocess.run(
            [program("wine64"), "cmd", "/c", "exit"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def server_pid():
    """The process of the prefix's server, which runs."""
    # Its working folder carries the prefix's device and inode in its name; where that folder is,
    # differs from system to system.
    prefix = PREFIX.stat()
    name = f"server-{prefix.st_dev:x}-{prefix.st_ino:x}"
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # one that has ended, or another user's
            program = (process / "comm").read_text()
            if program.startswith("wineserver") and (process / "cwd").readlink().name == name:
                return int(process.name)
    raise Failure("Wine's server does not run")


def stop_server():
    """End the prefix's server and with it every Windows program of this lab."""
    if PREFIX.exists() and shutil.which("wineserver"):
        subprocess.run(
            [program("wineserver"), "-k"], env=environment(), check=False, capture_output=True
        )
        subprocess.run(
            [program("wineserver"), "-w"], env=environment(), check=False, capture_output=True
        )


def pump(source, target, ended):
    """Copy from one descriptor to the other, and close both: to the end of the source, or until
    there is no more to read and `ended` is set. A program that is still running, started by the
    one that has ended, may keep the source open for ever.
    """
    with open(source, "rb", buffering=0) as reader, open(target, "wb") as writer:
        try:
            while True:
                ready, _, _ = select.select([reader], [], [], 0.1)
                if ready:
                    block = reader.read(1 << 16)
                    if not block:
                        return
                    writer.write(block)
                    writer.flush()
                elif ended.is_set():
                    return
        except BrokenPipeError:
            # Nobody reads any more; the program learns it from its next write, or need not know.
            return


def needs_pipe(fd, console):
    return stat.S_ISREG(os.fstat(fd).st_mode) or (not console and os.isatty(fd))


def call(argv, env, console=True):
    """Run a Windows program with this process's streams; returns its exit status.

    console: whether it may have the terminal, if there is one, as its console; else it writes to
    the terminal as to a pipe. Ctrl+C and SIGTERM are passed on.

    Python under Wine ends at its start when a standard stream is a regular file; such a stream
    goes through a pipe too.
    """
    pumps, streams, close = [], {}, []
    ended = threading.Event()
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            if not needs_pipe(fd, console):
                continue
        except OSError:
            streams[name] = subprocess.DEVNULL  # a closed descriptor
            continue
        piped = streams.get("stdout", subprocess.DEVNULL) != subprocess.DEVNULL
        if fd == 2 and piped and os.path.sameopenfile(1, 2):
            # One pipe for both, so that they stay in order.
            streams[name] = streams["stdout"]
            continue
        reader, writer = os.pipe()
        streams[name], other = (reader, writer) if fd == 0 else (writer, reader)
        close.append(streams[name])
        ends = (os.dup(fd), other) if fd == 0 else (other, os.dup(fd))
        pumps.append(threading.Thread(target=pump, args=(*ends, ended), daemon=True))
    # In a session of its own, so that a terminal's Ctrl+C comes by one way only: through the
    # handler below.
    process = subprocess.Popen(argv, env=env, start_new_session=True, **streams)
    for fd in close:
        os.close(fd)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: process.send_signal(number))
    for thread in pumps:
        thread.start()
    status = process.wait()
    ended.set()
    for thread in pumps:
        thread.join()
    return status if status >= 0 else 128 - status
