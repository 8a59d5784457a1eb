"""The echo benchmark: the same load on iocpx and on the asyncio loops it is compared with.

    python -m iocpx bench            on Windows
    python3 -m bench --server-python CMD     in this folder's parent, on any system

run.py      starts a server and a client for each measurement and collects the figures
servers.py  one server, in a process of its own
client.py   the load, in a process of its own, which checks every byte
cpus.py     on which CPUs a process runs
report.py   progress and tables, on a terminal and elsewhere

benchmarks/ceiling.c, which `dev.py bench` builds, is one more server: the best an engine could do.

Only servers.py ever imports iocpx, so that the rest runs where iocpx does not.
"""
