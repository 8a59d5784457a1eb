"""The developer's lab: a Windows Python, wherever one is, and iocpx built for it.

Standard library only, but for conformance.py's table.

steps.py    the steps of the set-up, each done once and announced; the lab's folder
fetch.py    files from the package index and from Debian, each verified
jobs.py     programs side by side, the output of each kept apart
wine.py     Wine's environment, prefixes and servers; a Windows program run like a local one
linux.py    Windows Pythons ("lanes") on Linux: interpreters, headers, wheels, cross compiler
windows.py  the same on Windows itself: the running Python and Microsoft's compiler
build.py    building, and the wheels and the source distribution
msvc.py     the same with Microsoft's compiler, on Linux
sim.py      the engine on a simulated kernel, built for this machine
simulate.py what is done with it
suites.py   other people's tests of asyncio: where they come from
conformance.py  those on Python's loop and on ours; run_module.py runs a module of them on the
                lane's Python, conformance_expected.py lists what fails, and why

linux.py and windows.py offer the same functions; `here` is the one that fits this machine.
"""

import sys

if sys.platform == "win32":
    from . import windows as here
else:
    from . import linux as here

__all__ = ["here"]
