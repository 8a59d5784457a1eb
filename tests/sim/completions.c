/* How operations complete, by themselves or by CancelIoEx, and the choice of what happens next.

   Called by the scheduler and by the engine, by no other room; may call clients.c, files.c,
   datagrams.c, connect.c,
   accept.c, ops.c, streams.c and objects.c. */
#include "objects.h"

enum { IN_VAIN = 20 };      /* receives cancelled in a row; fewer than that are posted at a time */

static void run_receive(op_t *op)
{
    object_t *sock = op->sock;
    enum incoming what = first_of(sock, A_RECEIVE) == op ? incoming(sock) : NOTHING_YET;
    if (incoming(sock) == BROKEN)
        what = BROKEN;
    take_op_back(op);
    // A cancelled one may have been about to complete with what is there.
    sock->in_vain++;
    if (op->cancelled && (what != DATA || sim_random(2))) {
        if (sock->in_vain > IN_VAIN)
            sim_fail("receives are posted on handle %d only to be cancelled", sock->handle);
        complete(op, STATUS_CANCELLED, 0);
        return;
    }
    sock->in_vain = 0;
    if (what == BROKEN)
        complete(op, STATUS_CONNECTION_RESET, 0);
    else
        complete(op, STATUS_SUCCESS, fill(sock, op->buffers, op->count));
}

static void run_send(op_t *op)
{
    object_t *sock = op->sock;
    if (op->kind == A_SEND && sum_of(op) != op->sum)
        sim_fail("what WSASend #%d sends has been changed", op->number);
    take_op_back(op);
    if (op->cancelled && (sock->reset || sim_random(2))) {
        complete(op, STATUS_CANCELLED, 0);
    } else if (sock->reset) {
        complete(op, STATUS_CONNECTION_RESET, 0);
    } else {
        size_t nbytes = op->nbytes;
        if (nbytes > 1 && chance(config()->shorts))
            nbytes = 1 + sim_random((uint32_t)nbytes - 1);
        if (op->kind == A_TRANSMIT)
            take_file(sock, op->file, op->offset, nbytes);
        else
            take(sock, op->buffers, op->count, nbytes);
        complete(op, STATUS_SUCCESS, nbytes);
    }
}

static void run_op(op_t *op)
{
    if (op->kind == AN_ACCEPT)
        run_accept(op);
    else if (op->kind == A_CONNECT)
        run_connect(op);
    else if (op->kind == A_RECEIVE)
        run_receive(op);
    else if (op->kind == A_READ || op->kind == A_WRITE)
        run_file(op);
    else if (op->kind == A_RECEIVE_FROM)
        run_receive_from(op);
    else if (op->kind == A_SEND_TO)
        run_send_to(op);
    else
        run_send(op);
}

BOOL CancelIoEx(HANDLE file, OVERLAPPED *overlapped)
{
    KERNEL;
    object_t *sock = io_of((uintptr_t)file, "CancelIoEx");
    int found = 0;
    if (fails(F_CancelIoEx)) {
        winsock.cancel_failed = 1;
        return 0;
    }
    for (op_t *op = sock->first, *next; op != NULL; op = next) {
        next = op->next;
        if (overlapped != NULL && op->overlapped != overlapped)
            continue;
        found = 1;
        sim_note("cancel", op->number, sock->handle);
        op->cancelled = 1;
        touch_op(op);
        if (sim_random(2))
            run_op(op);
    }
    sim_point();
    return found ? 1 : error_is(ERROR_NOT_FOUND);
}

int winsock_act(void)
{
    set_t *ready = &winsock.ready;
    if (ready->n == 0)
        return 0;
    member_t *member = &ready->members[sim_random((uint32_t)ready->n)];
    client_t *client = member->thing;
    if (winsock.clients <= client && client < winsock.clients + config()->clients)
        client_act(client);
    else
        run_op(member->thing);
    return 1;
}
