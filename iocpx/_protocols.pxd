# TypeError if `result`, of a call of `name`, is what only an `async def` returns.
cdef int refuse_coroutine(str name, result) except -1
# Does it take its data as a BufferedProtocol?  TypeError: in no way.
cdef bint is_buffered(protocol) except -1
# Is data_sent() a method of its class?
cdef bint defines_data_sent(protocol) noexcept
# Its method of that name; None: it has none.
cdef object method_of(protocol, str name)
