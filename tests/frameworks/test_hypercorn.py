"""iocpx.run(serve(app, config)), as hypercorn's documentation has it with asyncio.run()."""

import pytest
from http_client import exercise

pytest.importorskip("hypercorn")


def test_it_serves_on_our_loop(start, tls, certificate):
    program = start("hypercorn_app.py", 0, *certificate)
    exercise(program.read_port(), tls)
    program.interrupt()
