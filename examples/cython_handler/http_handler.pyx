"""An HTTP/1.1 server inside iocpx's engine, which never enters Python: / says hello.

Keep-alive and pipelining, Content-Length and no other bodies, which are read and thrown away.  A
head or a body that is too long, a head that takes too long, and what is no HTTP ends its connection
with the status that says so.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy, strlen

from iocpx.engine_api cimport (
    api_conn_t, API_VERSION, engine_api_t, handler_api_t, import_engine_api,
)

cdef enum:
    MAX_HEAD = 8192             # bytes
    MAX_BODY = 1 << 20
    HEAD_MS = 10000             # that a head may take, at least

ctypedef struct client_t:
    size_t body                 # bytes of the last request's, which are still to come
    char *head                  # owned: of a request that has begun, MAX_HEAD; NULL: none has
    size_t used                 # bytes of it
    unsigned int heads          # that have begun
    unsigned int timed          # which of them the timer is for…
    bint timing                 # … as long as it runs

ctypedef struct request_t:
    bint is_get
    bint is_head
    bint is_root
    bint has_host
    bint keeps_alive
    bint minor                  # HTTP/1.1, not 1.0
    size_t body

cdef const engine_api_t *api
cdef handler_api_t table

cdef const char *HELLO = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!")
cdef const char *HELLO_LAST = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n"
    b"Connection: close\r\n\r\nHello, world!")
cdef const char *HELLO_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\n")
cdef const char *HELLO_HEAD_LAST = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n"
    b"Connection: close\r\n\r\n")
cdef const char *NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
cdef const char *NOT_FOUND_LAST = (
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
# These end the connection.
cdef const char *BAD = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
cdef const char *TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
cdef const char *BIG_BODY = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\r\n"
cdef const char *BIG_HEAD = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\r\n")
cdef const char *NO_CHUNKS = b"HTTP/1.1 501 Not Implemented\r\nConnection: close\r\n\r\n"
cdef const char *NO_VERSION = (
    b"HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n")


# -- reading a head ------------------------------------------------------------------------


cdef const char *head_end(const char *data, size_t nbytes, size_t begin) noexcept nogil:
    """Behind the empty line, which is looked for from `begin` on; NULL: it has not come."""
    cdef const char *at = data + begin
    cdef const char *end = data + nbytes
    while True:
        at = <const char *>memchr(at, 13, end - at)
        if at == NULL or end - at < 4:
            return NULL
        if at[1] == 10 and at[2] == 13 and at[3] == 10:
            return at + 4
        at += 1


cdef char lower(char c) noexcept nogil:
    return c + 32 if 65 <= c <= 90 else c


cdef bint is_text(const char *begin, const char *end, const char *text) noexcept nogil:
    """`text` is in lower case."""
    cdef size_t i
    cdef size_t n = strlen(text)
    if <size_t>(end - begin) != n:
        return False
    for i in range(n):
        if lower(begin[i]) != text[i]:
            return False
    return True


cdef bint has_word(const char *begin, const char *end, const char *text) noexcept nogil:
    """Is it one of the words of a list with commas?"""
    cdef const char *at = begin
    cdef const char *last
    while begin < end:
        at = <const char *>memchr(begin, 44, end - begin)
        if at == NULL:
            at = end
        last = at
        while begin < last and (begin[0] == 32 or begin[0] == 9):
            begin += 1
        while begin < last and (last[-1] == 32 or last[-1] == 9):
            last -= 1
        if is_text(begin, last, text):
            return True
        begin = at + 1
    return False


cdef const char *read_field(request_t *request, bint *has_length, const char *begin,
                            const char *end) noexcept nogil:
    """One line of the head; what is wrong with it, or NULL."""
    cdef const char *colon = <const char *>memchr(begin, 58, end - begin)
    cdef const char *value
    cdef size_t length = 0
    # A space before the colon, or a line that goes on, is where others read something else.
    if colon == NULL or colon == begin or colon[-1] == 32 or colon[-1] == 9 or begin[0] == 32 or (
            begin[0] == 9):
        return BAD
    value = colon + 1
    while value < end and (value[0] == 32 or value[0] == 9):
        value += 1
    while value < end and (end[-1] == 32 or end[-1] == 9):
        end -= 1
    if is_text(begin, colon, b"content-length"):
        if value == end or end - value > 18:
            return BAD
        while value < end:
            if not 48 <= value[0] <= 57:
                return BAD
            length = 10 * length + <size_t>(value[0] - 48)
            value += 1
        if has_length[0] and length != request.body:
            return BAD
        has_length[0] = True
        request.body = length
    elif is_text(begin, colon, b"transfer-encoding"):
        return NO_CHUNKS
    elif is_text(begin, colon, b"host"):
        if request.has_host:
            return BAD
        request.has_host = True
    elif is_text(begin, colon, b"connection"):
        if has_word(value, end, b"close"):
            request.keeps_alive = False
        elif has_word(value, end, b"keep-alive"):
            request.keeps_alive = True
    return NULL


cdef const char *read_head(request_t *request, const char *data,
                           const char *end) noexcept nogil:
    """A whole head; what is wrong with it, or NULL."""
    cdef const char *line_end = <const char *>memchr(data, 13, end - data)
    cdef const char *target = <const char *>memchr(data, 32, line_end - data)
    cdef const char *version
    cdef const char *wrong
    cdef bint has_length = False
    if target == NULL or target == data:
        return BAD
    target += 1
    version = <const char *>memchr(target, 32, line_end - target)
    if version == NULL or version == target:
        return BAD
    request.is_get = is_text(data, target - 1, b"get")
    request.is_head = is_text(data, target - 1, b"head")
    request.is_root = version == target + 1 and target[0] == 47
    version += 1
    request.minor = is_text(version, line_end, b"http/1.1")
    if not request.minor and not is_text(version, line_end, b"http/1.0"):
        return NO_VERSION if line_end - version == 8 else BAD
    request.keeps_alive = request.minor
    if line_end[1] != 10:
        return BAD
    data = line_end + 2
    while data < end - 2:
        line_end = <const char *>memchr(data, 13, end - data)
        if line_end[1] != 10:
            return BAD
        wrong = read_field(request, &has_length, data, line_end)
        if wrong != NULL:
            return wrong
        data = line_end + 2
    if request.minor and not request.has_host:
        return BAD
    return BIG_BODY if request.body > MAX_BODY else NULL


# -- the handler -----------------------------------------------------------------------------


cdef void say(api_conn_t conn, const char *text) noexcept nogil:
    if api.write(conn, text, strlen(text)) != 0:
        api.abort(conn)         # out of memory, or it is closing


cdef void end_with(api_conn_t conn, const char *text) noexcept nogil:
    say(conn, text)
    api.close(conn)


cdef void answer(api_conn_t conn, client_t *client, const char *data,
                 const char *end) noexcept nogil:
    cdef request_t request
    cdef const char *wrong
    cdef bint goes_on
    request.has_host = False
    request.body = 0
    wrong = read_head(&request, data, end)
    if wrong != NULL:
        end_with(conn, wrong)
        return
    client.body = request.body
    # HTTP/1.0 asks for more than one by a header, which has to be answered by one.
    goes_on = request.keeps_alive and request.minor
    if not request.is_root:
        say(conn, NOT_FOUND if goes_on else NOT_FOUND_LAST)
    elif request.is_head:
        say(conn, HELLO_HEAD if goes_on else HELLO_HEAD_LAST)
    else:
        say(conn, HELLO if goes_on else HELLO_LAST)
    if not goes_on:
        api.close(conn)


cdef void *made(api_conn_t conn, void *user) noexcept nogil:
    cdef void *client = calloc(1, sizeof(client_t))
    if client == NULL:
        api.abort(conn)
    return client


cdef size_t go_on_with_head(api_conn_t conn, client_t *client, const char *data,
                            size_t nbytes) noexcept nogil:
    """The head has begun before; how many bytes are used up."""
    cdef size_t part = min(nbytes, MAX_HEAD - client.used)
    cdef size_t before = client.used
    cdef const char *end
    memcpy(client.head + client.used, data, part)
    client.used += part
    end = head_end(client.head, client.used, before - 3 if before > 3 else 0)
    if end == NULL:
        if client.used == MAX_HEAD:
            end_with(conn, BIG_HEAD)
        return nbytes
    answer(conn, client, client.head, end)
    part = <size_t>(end - client.head) - before
    free(client.head)
    client.head = NULL
    client.used = 0
    return part


cdef void begin_head(api_conn_t conn, client_t *client, const char *data,
                     size_t nbytes) noexcept nogil:
    if nbytes >= MAX_HEAD:
        end_with(conn, BIG_HEAD)
        return
    client.head = <char *>malloc(MAX_HEAD)
    if client.head == NULL:
        api.abort(conn)
        return
    memcpy(client.head, data, nbytes)
    client.used = nbytes
    client.heads += 1
    if not client.timing:
        client.timing = True
        client.timed = client.heads
        api.wake(conn, HEAD_MS)


cdef void take(api_conn_t conn, void *own, const char *data, size_t nbytes) noexcept nogil:
    cdef client_t *client = <client_t *>own
    cdef const char *end
    cdef size_t part
    while nbytes > 0 and client != NULL and not api.is_closing(conn):
        if client.body > 0:
            part = min(client.body, nbytes)
            client.body -= part
        elif client.head != NULL:
            part = go_on_with_head(conn, client, data, nbytes)
        else:
            end = head_end(data, nbytes, 0)
            if end == NULL:
                begin_head(conn, client, data, nbytes)
                return
            if end - data > MAX_HEAD:
                end_with(conn, BIG_HEAD)
                return
            answer(conn, client, data, end)
            part = <size_t>(end - data)
        data += part
        nbytes -= part


cdef void timer(api_conn_t conn, void *own) noexcept nogil:
    cdef client_t *client = <client_t *>own
    client.timing = False
    if client.head == NULL:
        return
    if client.timed == client.heads:
        end_with(conn, TOO_SLOW)
        return
    # This one began while the timer ran for another.
    client.timing = True
    client.timed = client.heads
    api.wake(conn, HEAD_MS)


cdef void lost(api_conn_t conn, void *own, int error) noexcept nogil:
    cdef client_t *client = <client_t *>own
    if client != NULL:
        free(client.head)
        free(client)


api = import_engine_api()
table.version = API_VERSION
table.made = made
table.data = take
table.timer = timer
table.lost = lost
capsule = PyCapsule_New(&table, "iocpx.handler", NULL)
