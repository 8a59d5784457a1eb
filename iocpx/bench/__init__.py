"""The benchmark: the same load on iocpx and on what it is compared with.

    python -m iocpx bench            on Windows
    python3 -m bench --server-python CMD     in this folder's parent, on any system

run.py        starts a server and a client for each measurement and collects the figures
workloads.py  what is measured, by name
servers.py    one server, in a process of its own
client.py     the load, in a process of its own, which checks every byte: echo.py, churn.py,
              stream.py, and sockets.py, what these have in common
pattern.py    the bytes of a stream
cpus.py       on which CPUs a process runs
memory.py     how much memory it has
report.py     progress and tables, on a terminal and elsewhere
results.py    what is kept: JSON and a README's table
chart.py      a README's chart
targets.py    what the project wants of itself

benchmarks/ceiling.c, which `dev.py bench` builds, is one more server: the best an engine could do.

Only servers.py ever imports iocpx, so that the rest runs where iocpx does not.
"""
