"""granian's embedded server: its own threads do the input and output, the application is ours."""

import pytest
from http_client import exercise
from sockets import free_port

pytest.importorskip("granian")


def test_the_application_runs_on_our_loop(start, tls, certificate):
    # It does not tell which port the system has chosen.
    program = start("granian_app.py", free_port(), *certificate)
    exercise(program.read_port(), tls)
    program.interrupt()
