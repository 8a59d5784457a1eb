"""Cython finds iocpx/engine_api.pxd in the installed package; there is nothing to link."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [Extension("http_handler", ["http_handler.pyx"])],
        compiler_directives={"language_level": 3, "freethreading_compatible": True},
    ),
    py_modules=["serve_http"],
)
