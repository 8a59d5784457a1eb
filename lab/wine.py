"""Wine: its environment, prefix and server; a Windows program run like a local one."""

import os
import shutil
import signal
import stat
import subprocess
import threading

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


def stop_server():
    """End the prefix's server and with it every Windows program of this lab."""
    if PREFIX.exists() and shutil.which("wineserver"):
        subprocess.run(
            [program("wineserver"), "-k"], env=environment(), check=False, capture_output=True
        )
        subprocess.run(
            [program("wineserver"), "-w"], env=environment(), check=False, capture_output=True
        )


def is_file(fd):
    return stat.S_ISREG(os.fstat(fd).st_mode)


def pump(source, target):
    """Copy from one descriptor to the other until the end, and close both."""
    with open(source, "rb", buffering=0) as reader, open(target, "wb", buffering=0) as writer:
        try:
            while block := reader.read(1 << 16):
                writer.write(block)
        except BrokenPipeError:
            # The reader of the output has gone; the program learns it from its next write.
            pass


def call(argv, env):
    """Run a Windows program with this process's streams; returns its exit status.

    Ctrl+C and SIGTERM are passed on.

    Python under Wine ends at its start when a standard stream is a regular file; such a stream
    goes through a pipe.
    """
    pumps, streams, close = [], {}, []
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            needs_pipe = is_file(fd)
        except OSError:
            streams[name] = subprocess.DEVNULL  # a closed descriptor
            continue
        if not needs_pipe:
            continue
        if name == "stderr" and "stdout" in streams and os.path.sameopenfile(1, 2):
            # One pipe for both, so that they stay in order.
            streams[name] = streams["stdout"]
            continue
        reader, writer = os.pipe()
        if fd == 0:
            streams[name] = reader
            pumps.append(threading.Thread(target=pump, args=(os.dup(fd), writer), daemon=True))
            close.append(reader)
        else:
            streams[name] = writer
            pumps.append(threading.Thread(target=pump, args=(reader, os.dup(fd)), daemon=False))
            close.append(writer)
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
    for thread in pumps:
        if not thread.daemon:
            thread.join()
    return status if status >= 0 else 128 - status
