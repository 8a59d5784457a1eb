"""Builds the extension modules; everything else stands in pyproject.toml.

`pip install .` on Windows needs nothing but this file. A cross build (dev.py on Linux) goes
through it too: the environment variable IOCPX_BUILD_CONFIG then names a JSON file with the keys

    cython_dir    where the generated C goes, shared by all targets
    debug         true: no optimisation, with debug information
    cross         absent for a native build, otherwise what the running Python cannot know
                  about the target:
                  cc (argv of the compiler), include_dirs, define (pairs), link (files),
                  ext_suffix, tag (wheel tag)
"""

import json
import os
import sys

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

# The engine, from the bottom up: never in Python, so that the simulation can build it alone.
ENGINE = [
    "_state",
    "_frames",
    "_base",
    "_sched",
    "_life",
    "_provider",
    "_connect",
    "_recv",
    "_files",
    "_datagrams",
    "_send",
    "_conn",
    "_open",
    "_requests",
    "_filter",
    "_sendfile",
    "_sendto",
    "_delivery",
    "_accept",
    "_service",
    "_file_ops",
    "_worker",
    "_keeper",
    "_engine",
    "_native",
    "_c_handler",
]
MODULES = [
    *ENGINE,
    *("_tls", "_buffers", "_tls_layer", "_framers", "_messages", "_futures", "_file_layer"),
    *("_engine_api", "_engines", "_runtime", "_timers", "_protocols", "_connection", "_serving"),
    *("_server", "_peers", "_datagram_layer", "_datagram_server"),
    *("_aside", "_clients", "_connecting", "_open_file", "_core"),
    *("_handles", "_scheduling", "_socket_polls", "_loop", "_endpoint", "_engine_loop"),
    *("_transport_socket", "_transport", "_transports", "_datagram_transport", "_loop_files"),
]

# The one place for Cython's directives: none stands in a source file.
DIRECTIVES = {
    "language_level": 3,
    # Without this, importing the modules would switch the GIL back on in a free-threaded Python.
    "freethreading_compatible": True,
    # Indexes are checked where they come in, not at every access.
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    # C's division: no sign correction, no test for zero, so it needs no exception and no GIL.
    "cdivision": True,
    # A signature in the docstring would hide the one in the .pyi from help().
    "embedsignature": False,
}

DEFINES = [
    # windows.h would otherwise bring in the old winsock.h, which clashes with winsock2.h.
    ("WIN32_LEAN_AND_MEAN", None),
    ("NOMINMAX", None),
    # Windows 10: declares all that _winsock.pxd names.
    ("_WIN32_WINNT", "0x0a00"),
]

# AcceptEx and its kin are fetched with WSAIoctl, so mswsock is not linked.
LIBRARIES = ["ws2_32"]

CONFIG = {}
if "IOCPX_BUILD_CONFIG" in os.environ:
    with open(os.environ["IOCPX_BUILD_CONFIG"], encoding="utf-8") as file:
        CONFIG = json.load(file)
CROSS = CONFIG.get("cross")


class BuildExt(build_ext):
    def run(self):
        if not CROSS and sys.platform != "win32":
            raise SystemExit(
                "iocpx is for Windows. `python3 dev.py build` builds it for Windows on Debian;"
                " on other systems use asyncio or uvloop instead of iocpx."
            )
        # Cython comes in here and not at the head: metadata and sdist need no translation.
        from Cython.Build import cythonize

        translated = cythonize(
            [Extension(extension.name, list(extension.sources)) for extension in self.extensions],
            build_dir=CONFIG.get("cython_dir") or os.path.join(self.build_temp, "c"),
            compiler_directives=DIRECTIVES,
            # Side by side; on Windows a process of its own would run this file again.
            nthreads=os.cpu_count() if CROSS else 0,
            # Problems are printed either way; the list of modules only when asked for.
            quiet=not self.verbose,
        )
        for extension, new in zip(self.extensions, translated):
            extension.sources = new.sources
            extension.depends = new.depends
        super().run()

    def finalize_options(self):
        super().finalize_options()
        if CROSS:
            # The running Python put its own directories there.
            self.include_dirs = list(CROSS["include_dirs"])
            self.library_dirs = []
            self.define = [*(self.define or []), *[tuple(pair) for pair in CROSS["define"]]]

    def build_extensions(self):
        for extension in self.extensions:
            extension.extra_compile_args = self.compile_arguments()
            if CONFIG.get("debug") and self.compiler.compiler_type == "msvc":
                extension.extra_link_args = ["/DEBUG"]
        if CROSS:
            cc = CROSS["cc"]
            # -s: no symbols, unless for a debugger. -O2: what the compiler builds of its own
            # runtime for that is there, and not once more unoptimised.
            linker = [*cc, "-shared", *([] if CONFIG["debug"] else ["-O2", "-s"])]
            self.compiler.set_executables(
                compiler=cc, compiler_so=cc, linker_so=linker, linker_exe=cc
            )
        super().build_extensions()

    def build_extension(self, extension):
        super().build_extension(extension)
        if CROSS:
            # The linker's by-products: an import library, and debug information in a second form.
            stem = os.path.join(self.build_lib, *extension.name.split("."))
            for path in (stem + ".lib", stem + CROSS["ext_suffix"].removesuffix(".pyd") + ".pdb"):
                if os.path.exists(path):
                    os.unlink(path)

    def compile_arguments(self):
        if self.compiler.compiler_type == "msvc":
            return ["/Od", "/Z7"] if CONFIG.get("debug") else []
        return [
            # DWARF 4: Wine's backtraces do not read a later version. Without -fno-sanitize the
            # compiler adds traps to an unoptimised build, which would also stop in CPython's own
            # headers.
            *(
                ["-O0", "-g", "-gdwarf-4", "-fno-sanitize=undefined"]
                if CONFIG.get("debug")
                else ["-O2", "-DNDEBUG"]
            ),
            "-fno-strict-aliasing",
            "-Wall",
            "-Wextra",
        ]

    def get_ext_filename(self, fullname):
        if CROSS:
            return os.path.join(*fullname.split(".")) + CROSS["ext_suffix"]
        return super().get_ext_filename(fullname)

    def get_libraries(self, extension):
        return extension.libraries if CROSS else super().get_libraries(extension)


class BdistWheel(bdist_wheel):
    def get_tag(self):
        return tuple(CROSS["tag"]) if CROSS else super().get_tag()


setup(
    ext_modules=[
        Extension(
            "iocpx." + name,
            ["iocpx/" + name + ".pyx"],
            define_macros=DEFINES,
            libraries=LIBRARIES,
            extra_objects=CROSS["link"] if CROSS else [],
        )
        for name in MODULES
    ],
    cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel},
)
