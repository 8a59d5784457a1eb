"""Wine: its environment, prefixes and servers; a Windows program run like a local one."""

import contextlib
import os
import select
import shutil
import signal
import stat
import subprocess
import threading
from pathlib import Path

from .steps import LAB, Failure, fresh_folder, run

PREFIX = LAB / "prefix"
# A prefix's server outlives the programs by so much: a Python then starts in 0.1 s, not in 2.5 s.
SERVER_SECONDS = 600


def program(name):
    """The path of one of Wine's own programs.

    Debian's /usr/bin/wine is a script that looks for a 32-bit Wine first.
    """
    path = shutil.which(name, path=f"/usr/lib/wine:{os.environ.get('PATH', os.defpath)}")
    if path is None:
        raise Failure(f"{name} is not installed: run `python3 dev.py setup`")
    return path


def lane_prefix(lane):
    """A prefix for the lane alone: a server does one thing at a time, so lanes that run side by
    side on one would wait for one another.
    """
    return LAB / f"prefix-{lane}"


def environment(prefix=PREFIX):
    """The environment for Windows programs: this process's, with the settings that Wine needs."""
    # That no bytecode is to be written would cost each start of a Python half a second; it lies in
    # the lab and in nobody's way: linux.command().
    unwanted = ("PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    env = {key: value for key, value in os.environ.items() if key not in unwanted}
    env["WINEPREFIX"] = str(prefix)
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
    stop_servers()
    if PREFIX.exists():
        shutil.rmtree(PREFIX)
    wine, env = program("wine64"), environment()
    run([wine, "wineboot", "-i"], env=env, hint="Wine cannot make its prefix")
    # Wine 8 starts as Windows 7, in which Python 3.12 and later end at once.
    run([wine, "winecfg", "-v", "win10"], env=env, hint="Wine cannot be set to Windows 10")
    # At each look at a file Wine asks this driver, which is another process, for the file's volume:
    # a third of the time that a Python takes to start. Without it st_dev is 0 everywhere.
    driver = r"HKLM\System\CurrentControlSet\Services\MountMgr"
    words = [wine, "reg", "add", driver, *("/v", "Start", "/t", "REG_DWORD", "/d", "4", "/f")]
    run(words, env=env, hint="Wine cannot do without its mount manager")
    # Only at its end the server writes all of the registry to its files.
    stop_servers()


def make_lane_prefix(lane):
    """Another prefix like the one that there is: a registry of its own, and the same C: drive,
    most of which is Wine's own DLLs.
    """
    prefix = fresh_folder(lane_prefix(lane))
    # With the time stamp Wine does not take it for one that is to be updated.
    for path in (*PREFIX.glob("*.reg"), PREFIX / ".update-timestamp"):
        shutil.copy2(path, prefix)
    drives = prefix / "dosdevices"
    drives.mkdir()
    (drives / "c:").symlink_to(f"../../{PREFIX.name}/drive_c")
    (drives / "z:").symlink_to("/")


def start_server(prefix=PREFIX):
    """Start the prefix's server if it does not run, with Windows's services."""
    started = subprocess.run(
        [program("wineserver"), f"-p{SERVER_SECONDS}"],
        env=environment(prefix),
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
            env=environment(prefix),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )


def server_pid():
    """The process of the server of the prefix that no lane has for itself; it runs."""
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


def stop_servers():
    """End the servers of all prefixes and with them every Windows program of this lab."""
    if not shutil.which("wineserver"):
        return
    for prefix in (PREFIX, *LAB.glob("prefix-*")):
        for option in ("-k", "-w"):
            if prefix.exists():
                argv = [program("wineserver"), option]
                subprocess.run(argv, env=environment(prefix), check=False, capture_output=True)


def pump(source, target, process):
    """Copy from one descriptor to the other, and close both: to the end of the source, or until
    there is no more to read and the process has ended. A program that is still running, started by
    the one that has ended, may keep the source open for ever.
    """
    with open(source, "rb", buffering=0) as reader, open(target, "wb") as writer:
        try:
            while True:
                # Asked first: what it wrote as its last words is there when it has ended.
                ended = process.poll() is not None
                ready, _, _ = select.select([reader], [], [], 0 if ended else 0.1)
                if ready:
                    block = reader.read(1 << 16)
                    if not block:
                        return
                    writer.write(block)
                    writer.flush()
                elif ended:
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
        pumps.append(ends)
    process, early = None, []

    def pass_on(number, frame):
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    # Before the program can have told that it has begun: whoever waits for that may press Ctrl+C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    # In a session of its own, so that a terminal's Ctrl+C comes by one way only: through the
    # handler above.
    process = subprocess.Popen(argv, env=env, start_new_session=True, **streams)
    for number in early:
        process.send_signal(number)
    for fd in close:
        os.close(fd)
    threads = [threading.Thread(target=pump, args=(*ends, process), daemon=True) for ends in pumps]
    for thread in threads:
        thread.start()
    status = process.wait()
    for thread in threads:
        thread.join()
    return status if status >= 0 else 128 - status


def record(argv, env, output, started):
    """Run a program, Windows' or not, without input, with all that it prints going to the open
    file; returns its exit status. `started` is called with its process.
    """
    reader, writer = os.pipe()
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # as in `call`
    )
    os.close(writer)
    started(process)
    pump(reader, os.dup(output.fileno()), process)
    return process.wait()
