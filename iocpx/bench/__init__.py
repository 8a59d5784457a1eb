"""The benchmark: the same load on iocpx and on what it is compared with.

    python -m iocpx bench            on Windows; with --loops event loops instead of servers
    python3 -m bench --server-python CMD     in this folder's parent, on any system

run.py        one whole run: which server is put under which workload, and when; what is then told
options.py    the command line
measure.py    one server under test, and one run of the client against it
process.py    a process that speaks JSON lines
figures.py    what was measured, and compared
cpu_time.py   how much CPU time a process and the machine have used
workloads.py  what is measured, by name
servers.py    one server, in a process of its own
loops.py      the event loops by name
scheduling.py what a loop schedules, without connections; scheduling_table.py: its rows side by side
http_servers.py  uvicorn and aiohttp on a loop; file_servers.py: what sends files
files.py      reads of a file
client.py     the load, in a process of its own, which checks every byte: echo.py, churn.py,
              stream.py, http_load.py, and sockets.py, what these have in common
pattern.py    the bytes of a stream, and of HTTP's bodies
tls.py        a certificate for both sides
cpus.py       on which CPUs a process runs
memory.py     how much memory it has
report.py     progress and tables, on a terminal and elsewhere
notes.py      what is said about a run in words
results.py    what is kept: JSON and a README's tables
chart.py      a README's charts
loop_summary.py  one line for each loop: what table and chart show of them
targets.py    what the project wants of itself; loop_targets.py: of its event loop

benchmarks/ceiling.c, which `dev.py bench` builds, is one more server: the best an engine could do.
It builds examples/cython_handler, too, a handler in C that answers HTTP.

Called by `__main__` and by `dev.py bench`; calls what is public of iocpx. Only servers.py and, for
it, loops.py and files.py ever import that, so that the rest runs where iocpx does not.
"""
