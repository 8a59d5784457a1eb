"""The developer's lab: finds or makes a Windows Python, and builds iocpx for it. Standard library only.

steps.py    the steps of the set-up: what is done once, and said while it is done; the lab's folder
fetch.py    files from the package index and from Debian, each verified
wine.py     Wine's environment, prefix and server, and running a Windows program so that it behaves like a local one
linux.py    the Windows Pythons ("lanes") on Linux: Wine, interpreters, headers, wheels, cross compiler
windows.py  the same on Windows itself: a virtual environment of the running Python, and Microsoft's compiler
build.py    building, and the wheels and the source distribution

linux.py and windows.py offer the same functions; `here` is the one that fits this machine.
"""

import sys

if sys.platform == "win32":
    from . import windows as here
else:
    from . import linux as here

__all__ = ["here"]
