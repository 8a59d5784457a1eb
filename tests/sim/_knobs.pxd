"""The parameters of a run: drawn from its seed, unless a knob fixes them.

Called by the driver; calls _run, and has the server's handler from _scripted."""

cdef set_knobs(values)
# Into `the`.
cdef void configure() noexcept nogil
cdef void draw_probe() noexcept nogil
