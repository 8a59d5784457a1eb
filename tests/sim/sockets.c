/* The calls on sockets: how one is made, set up, received from, sent to and closed.

   Called by the engine and the driver, by no other room; may call every room but completions.c and
   port.c. */
#include "objects.h"

#include <string.h>

#include "mstcpip.h"

enum { MAX_BUFFERS = 16 };

/* -- a socket's life ------------------------------------------------------------------------- */

SOCKET WSASocketW(int af, int type, int protocol, void *info, GROUP group, DWORD flags)
{
    KERNEL;
    (void)info;
    (void)group;
    if ((af != AF_INET && af != AF_INET6) || type != SOCK_STREAM || protocol != IPPROTO_TCP
        || flags != (WSA_FLAG_OVERLAPPED | WSA_FLAG_NO_HANDLE_INHERIT))
        sim_fail("WSASocketW: not simulated");
    if (fails(F_WSASocketW))
        return INVALID_SOCKET;
    return (SOCKET)new_socket(af)->handle;
}

int closesocket(SOCKET s)
{
    KERNEL;
    sim_point();
    object_t *sock = sock_of(s, "closesocket");
    if (sock->first != NULL && !sock->listening)
        sim_fail("handle %d is closed while %s #%d is pending", sock->handle,
                 op_names[sock->first->kind], sock->first->number);
    if (sock->untold && !winsock.cancel_failed)
        sim_fail("client %lld has been accepted, and its socket is closed before that is known",
                 client_of(sock));
    close_object(sock);
    // A listener's end, but not that of one of its handles, is that of every AcceptEx on it. One
    // that has its client and waits for data is an affair of the accept socket's already; Wine ends
    // it all the same.
    for (op_t *op = sock->shared ? NULL : sock->first; op != NULL; op = op->next) {
        op->cancelled |= op->client == NULL || op->data_bytes == 0
                         || !config()->profile->accepted_outlive;
        touch_op(op);
    }
    if (sock->in_accept)
        for (int i = 0; i < winsock.n_listeners; i++)
            for (op_t *op = winsock.listeners[i]->first; op != NULL; op = op->next)
                if (op->accepted == sock) {
                    op->accepted = NULL;
                    touch_op(op);
                }
    if (sock->client != NULL)
        client_left_alone(sock);
    for (client_t *client; (client = first_in_backlog(sock)) != NULL;) {
        client->state = GONE;
        client->facts.reset = 1;
        touch_client(client);
    }
    // Where it fails, the handle is gone all the same.
    int failed = fails(F_closesocket);
    sim_point();
    return failed ? SOCKET_ERROR : 0;
}

int shutdown(SOCKET s, int how)
{
    KERNEL;
    sim_point();
    object_t *sock = sock_of(s, "shutdown");
    if (how != SD_SEND && how != SD_BOTH)
        sim_fail("shutdown: not simulated");
    check_context(sock, "shutdown");
    if (sock->sends > 0)
        sim_fail("SD_SEND on handle %d before all is sent", sock->handle);
    if (fails(F_shutdown))
        return refuse(sock, WSAGetLastError());
    if (sock->reset && sim_random(2))
        return refuse(sock, WSAECONNRESET);
    sock->shut = 1;
    sim_note("SD_SEND", sock->handle, client_of(sock));
    touch(sock);
    return 0;
}

void sim_lend_socket(SOCKET s)
{
    KERNEL;
    if (sock_of(s, "sim_lend_socket")->selected)
        sim_fail("the application gets a socket that cannot be made blocking");
}

/* -- options --------------------------------------------------------------------------------- */

int setsockopt(SOCKET s, int level, int name, const char *value, int length)
{
    KERNEL;
    object_t *sock = sock_of(s, "setsockopt");
    if (fails(F_setsockopt)) {
        if (name == SO_LINGER && sock->client != NULL)
            sock->client->facts.unreset = 1;
        return SOCKET_ERROR;
    }
    if (sock->datagrams)
        sim_fail("setsockopt: option %d is none of datagrams", name);
    if (level == IPPROTO_TCP && name == TCP_NODELAY)
        return 0;
    if (level == SOL_SOCKET && name == SO_LINGER) {
        struct linger linger;
        if (length != sizeof(linger))
            sim_fail("SO_LINGER: %d bytes", length);
        memcpy(&linger, value, sizeof(linger));
        // closesocket does not look at it where it does not know that there is a connection.
        sock->linger_zero = linger.l_onoff && linger.l_linger == 0
                            && (sock->updated || config()->profile->lax_contexts);
        return 0;
    }
    if (level == SOL_SOCKET && name == SO_UPDATE_ACCEPT_CONTEXT) {
        SOCKET listener;
        memcpy(&listener, value, sizeof(listener));
        const object_t *from = sock_of(listener, "SO_UPDATE_ACCEPT_CONTEXT");
        if (!from->listening)
            sim_fail("SO_UPDATE_ACCEPT_CONTEXT: %zu does not listen", listener);
        if (sock->client == NULL)
            sim_fail("SO_UPDATE_ACCEPT_CONTEXT on handle %d without a client", sock->handle);
        if (sock->reset && sim_random(4) == 0)
            return sock_error(WSAENOTCONN);
        sock->updated = 1;
        if (config()->profile->inherited_events && from->accept_event != NULL)
            sock->selected = sock->non_blocking = 1;
        return 0;
    }
    if (level == SOL_SOCKET && name == SO_UPDATE_CONNECT_CONTEXT) {
        if (value != NULL || length != 0 || sock->client == NULL)
            sim_fail("SO_UPDATE_CONNECT_CONTEXT on handle %d", sock->handle);
        sock->updated = 1;
        return 0;
    }
    sim_fail("setsockopt: option %d is not simulated", name);
}

static DWORD connect_time_s(const object_t *sock)
{
    for (int i = 0; i < winsock.n_listeners; i++)
        for (op_t *op = winsock.listeners[i]->first; op != NULL; op = op->next)
            if (op->accepted == sock && op->client != NULL)
                return (DWORD)((now_us() - op->connected_us) / 1000000);
    return (DWORD)-1;
}

int getsockopt(SOCKET s, int level, int name, char *value, int *length)
{
    KERNEL;
    object_t *sock = sock_of(s, "getsockopt");
    if (fails(F_getsockopt))
        return SOCKET_ERROR;
    DWORD answer;
    if (level == SOL_SOCKET && name == SO_PROTOCOL_INFOW)
        answer = config()->handles ? XP1_IFS_HANDLES : 0;
    else if (level == SOL_SOCKET && name == SO_CONNECT_TIME)
        answer = connect_time_s(sock);
    else
        sim_fail("getsockopt: option %d is not simulated", name);
    if (*length < (int)sizeof(answer))
        sim_fail("getsockopt: %d bytes", *length);
    memcpy(value, &answer, sizeof(answer));
    return 0;
}

int ioctlsocket(SOCKET s, long command, ULONG *argument)
{
    KERNEL;
    object_t *sock = sock_of(s, "ioctlsocket");
    if (command != FIONBIO)
        sim_fail("ioctlsocket: only FIONBIO is simulated");
    if (fails(F_ioctlsocket))
        return SOCKET_ERROR;
    if (*argument == 0 && (sock->selected || sock->accept_event != NULL))
        return sock_error(WSAEINVAL);
    sock->non_blocking = *argument != 0;
    return 0;
}

static BOOL transmit_file(SOCKET s, HANDLE handle, DWORD nbytes, DWORD per_send,
                          OVERLAPPED *overlapped, void *buffers, DWORD flags);

int WSAIoctl(SOCKET s, DWORD code, void *in, DWORD in_bytes, void *out, DWORD out_bytes,
             DWORD *returned, OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    (void)routine;
    sock_of(s, "WSAIoctl");
    if (overlapped != NULL)
        sim_fail("WSAIoctl: not simulated overlapped");
    if (fails(F_WSAIoctl))
        return SOCKET_ERROR;
    *returned = 0;
    if (code == SIO_KEEPALIVE_VALS) {
        if (in_bytes != sizeof(struct tcp_keepalive))
            sim_fail("SIO_KEEPALIVE_VALS: %u bytes", in_bytes);
        return 0;
    }
    if (code != SIO_GET_EXTENSION_FUNCTION_POINTER || out_bytes != sizeof(void *))
        sim_fail("WSAIoctl: code %x is not simulated", code);
    static const LPFN_ACCEPTEX accept = accept_ex;
    static const LPFN_GETACCEPTEXSOCKADDRS addresses = accept_addresses;
    static const LPFN_CONNECTEX connect = connect_ex;
    static const LPFN_TRANSMITFILE transmit = transmit_file;
    static const void *const functions[] = {&accept, &addresses, &connect, &transmit};
    if (((const GUID *)in)->bytes[0] == 4 && !config()->transmits)
        return sock_error(WSAEINVAL);
    memcpy(out, functions[((const GUID *)in)->bytes[0] - 1], sizeof(void *));
    return 0;
}

/* -- receiving and sending ------------------------------------------------------------------- */

/* An operation, or a send without an OVERLAPPED, has succeeded before its call returns. */
static int at_once(object_t *sock, enum op_kind kind, OVERLAPPED *overlapped, size_t nbytes,
                   DWORD *done)
{
    thread_t *thread = this_thread();
    *done = (DWORD)nbytes;
    static const char *const notes[] = {
        [A_RECEIVE] = "WSARecv at once, bytes",
        [A_SEND] = "WSASend at once, bytes",
        [A_TRANSMIT] = "TransmitFile at once, bytes",
    };
    sim_note(notes[kind], client_of(sock), (long long)nbytes);
    if (sock->inlined_by != thread->id || sock->inlined_look != thread->looks)
        sock->inlined = 0;
    sock->inlined_by = thread->id;
    sock->inlined_look = thread->looks;
    if (++sock->inlined > config()->inline_limit && config()->inline_limit > 0
        && thread->looks > 0)
        sim_fail("client %lld is served %ld times before others are looked for",
                 client_of(sock), sock->inlined);
    if (overlapped != NULL) {
        overlapped->Internal = STATUS_SUCCESS;
        overlapped->InternalHigh = nbytes;
        if (!sock->skip)
            queue_packet(overlapped, STATUS_SUCCESS, nbytes, ++winsock.last_number, sock);
    }
    touch(sock);
    sim_point();
    return 0;
}

/* Does the call wait for its outcome, although it could have it at once? */
static int would_rather_wait(void)
{
    return !config()->plain && sim_random(4) == 0;
}

static void check_buffers(DWORD count, const char *call)
{
    if (count < 1 || count > MAX_BUFFERS)
        sim_fail("%s: %u buffers", call, count);
}

int WSARecv(SOCKET s, WSABUF *buffers, DWORD count, DWORD *received, DWORD *flags,
            OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    (void)routine;
    (void)flags;
    sim_point();
    object_t *sock = sock_of(s, "WSARecv");
    check_context(sock, "WSARecv");
    check_buffers(count, "WSARecv");
    if (fails(F_WSARecv))
        return refuse(sock, WSAGetLastError());
    if (overlapped == NULL)
        sim_fail("WSARecv: without an OVERLAPPED");
    if (!sock->on_port)
        sim_fail("WSARecv: handle %d is on no port", sock->handle);
    check_unused(overlapped, "WSARecv");
    enum incoming what = incoming(sock);
    if (what == BROKEN && sim_random(2))
        return refuse(sock, WSAECONNRESET);
    if ((what == DATA || what == END) && sock->receives == 0 && !would_rather_wait())
        return at_once(sock, A_RECEIVE, overlapped, fill(sock, buffers, count), received);
    lend_op(new_op(A_RECEIVE, sock, overlapped, buffers, count));
    sim_point();
    return sock_error(WSA_IO_PENDING);
}

int WSASend(SOCKET s, WSABUF *buffers, DWORD count, DWORD *sent, DWORD flags,
            OVERLAPPED *overlapped, void *routine)
{
    KERNEL;
    size_t nbytes = 0;
    (void)routine;
    (void)flags;
    sim_point();
    object_t *sock = sock_of(s, "WSASend");
    check_context(sock, "WSASend");
    check_buffers(count, "WSASend");
    if (sock->shut)
        sim_fail("WSASend: handle %d has sent its end", sock->handle);
    if (overlapped == NULL && !sock->non_blocking)
        sim_fail("WSASend: would block");
    if (overlapped != NULL && !sock->on_port)
        sim_fail("WSASend: handle %d is on no port", sock->handle);
    if (sock->sends > 0)
        sim_fail("WSASend: two sends in flight on handle %d", sock->handle);
    if (overlapped != NULL)
        check_unused(overlapped, "WSASend");
    for (DWORD i = 0; i < count; i++)
        nbytes += buffers[i].len;
    if (nbytes == 0)
        sim_fail("WSASend: nothing to send");
    if (fails(F_WSASend))
        return refuse(sock, WSAGetLastError());
    if (sock->reset && (overlapped == NULL || sim_random(2)))
        return refuse(sock, sim_random(2) ? WSAECONNRESET : WSAECONNABORTED);
    if (overlapped == NULL && nbytes > room(sock))
        nbytes = room(sock);
    if (overlapped == NULL && (nbytes == 0 || would_rather_wait()))
        return sock_error(WSAEWOULDBLOCK);
    if (!sock->reset && room(sock) >= nbytes && (overlapped == NULL || !would_rather_wait())) {
        if (nbytes > 1 && chance(config()->shorts))
            nbytes = 1 + sim_random((uint32_t)nbytes - 1);
        take(sock, buffers, count, nbytes);
        return at_once(sock, A_SEND, overlapped, nbytes, sent);
    }
    lend_op(new_op(A_SEND, sock, overlapped, buffers, count));
    sim_point();
    return sock_error(WSA_IO_PENDING);
}

static BOOL transmit_file(SOCKET s, HANDLE handle, DWORD nbytes, DWORD per_send,
                          OVERLAPPED *overlapped, void *buffers, DWORD flags)
{
    KERNEL;
    DWORD sent;
    sim_point();
    object_t *sock = sock_of(s, "TransmitFile");
    object_t *file = get((uintptr_t)handle, A_FILE, "TransmitFile");
    check_context(sock, "TransmitFile");
    if (overlapped == NULL || per_send != 0 || buffers != NULL || flags != 0)
        sim_fail("TransmitFile: not simulated so");
    check_unused(overlapped, "TransmitFile");
    size_t offset = (size_t)overlapped->OffsetHigh << 32 | overlapped->Offset;
    if (sock->shut || !sock->on_port)
        sim_fail("TransmitFile: handle %d has sent its end, or is on no port", sock->handle);
    if (sock->sends > 0)
        sim_fail("TransmitFile: two sends in flight on handle %d", sock->handle);
    // 0 bytes are the whole file; beyond the end it fails, after it has sent what there was.
    if (nbytes == 0 || offset > file->size || nbytes > file->size - offset)
        sim_fail("TransmitFile: %u bytes from %zu on of a file of %zu", nbytes, offset, file->size);
    if (file->client != sock->client)
        sim_fail("TransmitFile: client %lld is sent somebody else's file", client_of(sock));
    if (fails(F_TransmitFile))
        return refuse(sock, WSAGetLastError()), 0;
    if (sock->reset && sim_random(2))
        return refuse(sock, sim_random(2) ? WSAECONNRESET : WSAECONNABORTED), 0;
    if (!sock->reset && room(sock) >= nbytes && !would_rather_wait()) {
        if (nbytes > 1 && chance(config()->shorts))
            nbytes = 1 + sim_random(nbytes - 1);
        take_file(sock, file, offset, nbytes);
        return at_once(sock, A_TRANSMIT, overlapped, nbytes, &sent) == 0;
    }
    op_t *op = new_op(A_TRANSMIT, sock, overlapped, NULL, 0);
    op->file = file;
    op->offset = offset;
    op->nbytes = nbytes;
    lend_op(op);
    sim_point();
    return error_is(ERROR_IO_PENDING);
}

BOOL WSAGetOverlappedResult(SOCKET s, OVERLAPPED *overlapped, DWORD *transferred, BOOL wait,
                            DWORD *flags)
{
    static const struct { DWORD status; int code; } codes[] = {
        {STATUS_CANCELLED, ERROR_OPERATION_ABORTED},
        {STATUS_CONNECTION_RESET, WSAECONNRESET},
        {STATUS_CONNECTION_REFUSED, WSAECONNREFUSED},
        {STATUS_BUFFER_OVERFLOW, WSAEMSGSIZE},
        {STATUS_LOCAL_DISCONNECT, WSAECONNABORTED},
        {STATUS_UNEXPECTED_NETWORK_ERROR, ERROR_UNEXP_NET_ERR},
    };
    KERNEL;
    (void)wait;
    (void)flags;
    object_t *sock = sock_of(s, "WSAGetOverlappedResult");
    check_unused(overlapped, "WSAGetOverlappedResult");
    *transferred = (DWORD)overlapped->InternalHigh;
    if (overlapped->Internal == STATUS_SUCCESS)
        return 1;
    if (fails(F_WSAGetOverlappedResult))
        return error_is((DWORD)tell(sock, WSAGetLastError()));
    for (size_t i = 0; i < sizeof(codes) / sizeof(codes[0]); i++)
        if (codes[i].status == overlapped->Internal)
            return error_is((DWORD)tell(sock, codes[i].code));
    sim_fail("WSAGetOverlappedResult: %zx is no outcome", overlapped->Internal);
}
