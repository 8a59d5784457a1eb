"""The event loops by their names, and how each is made.

Those that are not there are told apart by what they raise: comparing with them is a service, not a
need.
"""

import importlib

# The package and the function in it that makes a loop.
LOOPS = {
    "iocpx": "iocpx:new_event_loop",
    # The system's own default: Proactor on Windows.
    "asyncio": "asyncio:new_event_loop",
    "winloop": "winloop:new_event_loop",
    "blazio": "blazio:new_event_loop",
    "zuvloop": "zuvloop:new_event_loop",
    "cadeloop": "cadeloop:new_event_loop",
    "rsloop": "rsloop:new_event_loop",
}
OURS = "iocpx"
# Packages of others that are loops and nothing else.
OTHER_LOOPS = tuple(name for name in LOOPS if name not in (OURS, "asyncio"))
# Its connections cannot receive under Wine 8 (0.1.66 ends each with error 534).
WITHOUT_SOCKETS = "rsloop"


def maker(name):
    """The function that makes such a loop; ImportError or AttributeError where there is none."""
    module, _, function = LOOPS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def facts(name, loop):
    """What a server on such a loop says of itself."""
    versions = {} if name == "asyncio" else {name: package_version(name)}
    return {"versions": versions, "loop": type(loop).__name__}


def package_version(name):
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        # iocpx in a clone is not installed.
        return getattr(importlib.import_module(name), "__version__", "of unknown version")
