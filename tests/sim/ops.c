/* Packets and operations: lent to Windows by their post, given back before their packet is queued;
   and the errors that Windows tells of them.

   Called by the rooms that post and complete them, and by free() for what must not be pending; may
   call streams.c and objects.c. */
#include "objects.h"

const char *const op_names[] = {"AcceptEx", "WSARecv", "WSASend", "ConnectEx",
                                "TransmitFile", "ReadFile", "WriteFile", "WSARecvFrom", "WSASendTo"};

/* -- packets --------------------------------------------------------------------------------- */

void check_unused(const OVERLAPPED *overlapped, const char *call)
{
    if (is_lent(overlapped, sizeof(*overlapped)))
        sim_fail("%s: its OVERLAPPED is Windows's already", call);
}

int packets_waiting(void)
{
    return winsock.packets != NULL;
}

packet_t *queue_packet(OVERLAPPED *overlapped, DWORD status, size_t nbytes, int number,
                       object_t *sock)
{
    packet_t *packet = __real_calloc(1, sizeof(*packet));
    packet->overlapped = overlapped;
    packet->status = status;
    packet->nbytes = nbytes;
    packet->number = number;
    packet->sock = sock;
    packet->key = sock == NULL ? 0 : sock->key;
    *winsock.packets_tail = packet;
    winsock.packets_tail = &packet->next;
    winsock.n_packets++;
    if (overlapped != NULL)
        lend(overlapped, sizeof(*overlapped));
    wake();
    return packet;
}

/* -- operations ------------------------------------------------------------------------------ */

void check_not_pending(const void *block, size_t nbytes)
{
    if (is_lent(block, nbytes))
        sim_fail("memory is freed that Windows has");
    KERNEL;
    const char *first = block;
    for (const op_t *op = winsock.sends; op != NULL; op = op->next_send)
        for (DWORD i = 0; i < op->count; i++)
            if (op->buffers[i].buf >= first && op->buffers[i].buf < first + nbytes)
                sim_fail("memory is freed that %s #%d has", op_names[op->kind], op->number);
}

op_t *new_op(enum op_kind kind, object_t *sock, OVERLAPPED *overlapped, const WSABUF *buffers,
             DWORD count)
{
    op_t *op = __real_calloc(1, sizeof(*op) + count * sizeof(*buffers));
    op->at = -1;
    op->kind = kind;
    op->number = ++winsock.last_number;
    op->sock = sock;
    op->overlapped = overlapped;
    op->count = count;
    for (DWORD i = 0; i < count; i++) {
        op->buffers[i] = buffers[i];
        op->nbytes += buffers[i].len;
    }
    return op;
}

uint32_t sum_of(const op_t *op)
{
    uint32_t sum = 2166136261u;
    for (DWORD i = 0; i < op->count; i++)
        for (ULONG j = 0; j < op->buffers[i].len; j++)
            sum = (sum ^ (unsigned char)op->buffers[i].buf[j]) * 16777619u;
    return sum;
}

void lend_op(op_t *op)
{
    object_t *sock = op->sock;
    // On a port that of a file outlives its thread, and Wine has it done at once.
    if (this_thread()->passing && op->kind != A_READ && op->kind != A_WRITE)
        sim_fail("%s #%d may outlive the thread that posts it", op_names[op->kind], op->number);
    op->next = NULL;
    op->prev = sock->last;
    *(sock->last == NULL ? &sock->first : &sock->last->next) = op;
    sock->last = op;
    winsock.n_ops++;
    lend(op->overlapped, sizeof(OVERLAPPED));
    if (op->event != NULL) {
        give_back(op->overlapped, sizeof(op->overlapped->Internal));
        op->overlapped->Internal = STATUS_PENDING;
    }
    if (op->kind == A_RECEIVE) {
        sock->receives++;
        for (DWORD i = 0; i < op->count; i++)
            lend(op->buffers[i].buf, op->buffers[i].len);
    } else if (op->kind == A_RECEIVE_FROM) {
        sock->receives++;
        // The second buffer is nobody's, for what the first has no room for.
        lend(op->buffers[0].buf, op->buffers[0].len);
        lend(op->from, (size_t)((char *)(op->from_bytes + 1) - op->from));
    } else if (op->kind == A_READ) {
        lend(op->buffers[0].buf, op->buffers[0].len);
    } else if (op->kind == A_TRANSMIT) {
        sock->sends++;
        op->file->transmits++;
    } else if (op->kind == A_SEND || op->kind == A_WRITE || op->kind == A_SEND_TO) {
        sock->sends++;
        op->sum = sum_of(op);
        op->next_send = winsock.sends;
        if (winsock.sends != NULL)
            winsock.sends->prev_send = op;
        winsock.sends = op;
    } else if (op->kind == AN_ACCEPT) {
        lend(op->output, op->data_bytes);
    }
    sim_note(op_names[op->kind], op->number, sock->handle);
    touch_op(op);
}

void take_op_back(op_t *op)
{
    object_t *sock = op->sock;
    *(op->prev == NULL ? &sock->first : &op->prev->next) = op->next;
    *(op->next == NULL ? &sock->last : &op->next->prev) = op->prev;
    winsock.n_ops--;
    set_member(&winsock.ready, op, &op->at, 0);
    give_back(op->overlapped, sizeof(OVERLAPPED));
    if (op->kind == A_RECEIVE) {
        sock->receives--;
        for (DWORD i = 0; i < op->count; i++)
            give_back(op->buffers[i].buf, op->buffers[i].len);
    } else if (op->kind == A_RECEIVE_FROM) {
        sock->receives--;
        give_back(op->buffers[0].buf, op->buffers[0].len);
        give_back(op->from, (size_t)((char *)(op->from_bytes + 1) - op->from));
    } else if (op->kind == A_READ) {
        give_back(op->buffers[0].buf, op->buffers[0].len);
    } else if (op->kind == A_TRANSMIT) {
        sock->sends--;
        op->file->transmits--;
    } else if (op->kind == A_SEND || op->kind == A_WRITE || op->kind == A_SEND_TO) {
        sock->sends--;
        *(op->prev_send == NULL ? &winsock.sends : &op->prev_send->next_send) = op->next_send;
        if (op->next_send != NULL)
            op->next_send->prev_send = op->prev_send;
    } else if (op->kind == AN_ACCEPT) {
        give_back(op->output, op->data_bytes);
        if (op->accepted != NULL)
            op->accepted->in_accept = 0;
    }
}

static void complete_by_event(op_t *op, DWORD status, size_t nbytes)
{
    op->overlapped->Internal = status;
    op->overlapped->InternalHigh = nbytes;
    if (op->kind != AN_ACCEPT || status != STATUS_SUCCESS)
        op->accepted = NULL;
    else
        op->accepted->untold = 1;
    op->next = winsock.over;
    winsock.over = op;
    op->event->set = 1;
    wake();
}

object_t *take_over(const OVERLAPPED *overlapped)
{
    for (op_t **at = &winsock.over; *at != NULL; at = &(*at)->next)
        if ((*at)->overlapped == overlapped) {
            op_t *op = *at;
            object_t *accepted = op->accepted;
            *at = op->next;
            __real_free(op);
            return accepted;
        }
    return NULL;
}

BOOL HasOverlappedIoCompleted(const OVERLAPPED *overlapped)
{
    KERNEL;
    return overlapped->Internal != STATUS_PENDING;
}

void complete(op_t *op, DWORD status, size_t nbytes)
{
    sim_note(status == STATUS_SUCCESS ? "completes, bytes" : "completes, status", op->number,
             status == STATUS_SUCCESS ? (long long)nbytes : (long long)status);
    if (op->event != NULL) {
        object_t *sock = op->sock;
        complete_by_event(op, status, nbytes);
        touch(sock);
        return;
    }
    packet_t *packet = queue_packet(op->overlapped, status, nbytes, op->number, op->sock);
    if (op->kind == AN_ACCEPT && status == STATUS_SUCCESS) {
        packet->accepted = op->accepted;
        op->accepted->untold = 1;
    }
    touch(op->sock);
    __real_free(op);
}

/* -- errors ---------------------------------------------------------------------------------- */

int tell(object_t *sock, int code)
{
    client_t *client = sock->client;
    if (client != NULL) {
        client->facts.failed |= code != ERROR_OPERATION_ABORTED;
        if (client->n_told < MAX_TOLD)
            client->told[client->n_told++] = code;
    }
    return code;
}

int refuse(object_t *sock, int code)
{
    return sock_error((DWORD)tell(sock, code));
}

int sim_was_told(int client, int error)
{
    const client_t *who = &winsock.clients[client];
    for (int i = 0; i < who->n_told; i++)
        if (who->told[i] == error)
            return 1;
    return who->n_told == MAX_TOLD;
}
