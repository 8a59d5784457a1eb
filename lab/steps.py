"""The steps of the set-up: what is done once, and said while it is done; the lab's folder."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / ".lab"
REQUIREMENTS = ROOT / "lab" / "requirements-host.txt"
LOOPS = ROOT / "lab" / "requirements-loops.txt"
# What the host's tests have iocpx meet on the default lane, and the folder to import it from: not
# where the lane's other packages are, as no other test shall find it.
SURROUNDINGS = ROOT / "lab" / "requirements-surroundings.txt"
SURROUNDINGS_FOLDER = LAB / "surroundings"
# What tests/frameworks has on the iocpx loop.
FRAMEWORKS = ROOT / "lab" / "requirements-frameworks.txt"
# What other people's tests of asyncio import.
SUITES_PACKAGES = ROOT / "lab" / "requirements-suites.txt"
LEFT_OPEN_S = 3  # that what a command has left running may keep its output open

# Where `say` writes: None is sys.stdout. Verbs whose output is another program's use sys.stderr.
SAY_TO = None


class Failure(Exception):
    """Ends dev.py with this sentence, which says what to do, and without a traceback."""


def say(text, end="\n"):
    print(text, end=end, file=SAY_TO or sys.stdout, flush=True)


def tail(output, lines=25):
    """The last lines of a command's output, for a Failure's text."""
    return "\n".join("    " + line for line in output.strip().splitlines()[-lines:])


def run(argv, *, hint=None, **options):
    """Run a command quietly and return what it printed.

    When it fails: a Failure with `hint`, a sentence without its full stop, and what it said last.
    """
    process = subprocess.Popen(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    said = []
    reader = threading.Thread(target=read_all, args=(process.stdout, said), daemon=True)
    reader.start()
    process.wait()
    # All that it has said is in the pipe.  Its end may not come: what the command leaves running,
    # as Wine its desktop, has the pipe too.
    reader.join(LEFT_OPEN_S)
    output = b"".join(said).decode("utf-8", "replace").replace("\r\n", "\n")
    if process.returncode != 0:
        command = " ".join(str(word) for word in argv)
        raise Failure(f"{hint or 'a command failed'}:\n  {command}\n{tail(output)}")
    return output


def read_all(stream, said):
    with stream:
        while data := stream.read1():
            said.append(data)


def pin(package):
    """The package with its version, as pip wants it."""
    for line in (REQUIREMENTS.read_text() + LOOPS.read_text()).splitlines():
        if line.startswith(package + "=="):
            return line.partition(";")[0]
    raise LookupError(package)


def digest(value):
    """A short text that changes when `value`, anything json can write, changes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sha256_of(path):
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


def step(name, inputs, work, output=None):
    """Call `work()`, unless that was done before with the same `inputs` and its `output` is there.

    What was done is noted in the lab's folder, so a second run passes over it in no time.
    """
    stamp = LAB / "stamps" / (name.replace(" ", "-").replace(":", "") + ".txt")
    wanted = digest(inputs)
    if stamp.exists() and stamp.read_text() == wanted and (output is None or output.exists()):
        return
    stamp.unlink(missing_ok=True)
    say(f"{name} … ", end="")
    start = time.monotonic()
    try:
        work()
    except BaseException:
        say("failed")
        raise
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(wanted)
    say(f"done, {time.monotonic() - start:.0f} s")


def fresh_folder(path):
    """Make `path` an empty folder."""
    if path.exists():
        shutil.rmtree(path)
    path.mkdir(parents=True)
    return path


@contextlib.contextmanager
def exclusive():
    """Only one dev.py at a time sets up or builds in a checkout; another waits and says so."""
    if sys.platform == "win32":
        # msvcrt's locks give up after ten seconds and cannot tell who holds them; two builds at
        # once are rare there.
        yield
        return
    import fcntl

    LAB.mkdir(exist_ok=True)
    with open(LAB / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another dev.py in this checkout …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
