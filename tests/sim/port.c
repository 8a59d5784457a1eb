/* Events, the completion port, and the waits for both.

   Called by the engine and the scheduler, by no other room; may call ops.c and objects.c. */
#include "objects.h"

enum { SHARE = 4 };     /* inline completions of a turn */

/* -- events ---------------------------------------------------------------------------------- */

HANDLE CreateEventW(void *attributes, BOOL manual, BOOL initial, void *name)
{
    KERNEL;
    (void)attributes;
    (void)name;
    if (fails(F_CreateEventW))
        return NULL;
    object_t *event = new_object(AN_EVENT);
    event->manual = manual;
    event->set = initial;
    error_is(0);        // ERROR_ALREADY_EXISTS otherwise: success sets it, too
    return (HANDLE)(uintptr_t)event->handle;
}

BOOL SetEvent(HANDLE handle)
{
    KERNEL;
    get((uintptr_t)handle, AN_EVENT, "SetEvent")->set = 1;
    wake();
    sim_point();
    return 1;
}

int event_is_set(const object_t *event)
{
    return event->set;
}

static DWORD wait_for_events(DWORD count, const HANDLE *handles, DWORD timeout_ms)
{
    thread_t *thread = this_thread();
    uint64_t until_us = deadline_us(timeout_ms);
    object_t *events[2];
    for (DWORD i = 0; i < count; i++)
        events[i] = get((uintptr_t)handles[i], AN_EVENT, "a wait");
    if (thread->locks != 0)
        sim_fail("a thread waits for an event with a lock");
    sim_point();
    for (;;) {
        for (DWORD i = 0; i < count; i++)
            if (events[i]->set) {
                events[i]->set = events[i]->manual;
                return WAIT_OBJECT_0 + i;
            }
        if (until_us <= now_us())
            return WAIT_TIMEOUT;
        thread->n_events = count;
        for (DWORD i = 0; i < count; i++)
            thread->events[i] = events[i];
        wait_for(WAIT_EVENTS, until_us);
    }
}

DWORD WaitForMultipleObjects(DWORD count, const HANDLE *handles, BOOL all, DWORD timeout_ms)
{
    KERNEL;
    if (count < 1 || count > 2 || all)
        sim_fail("WaitForMultipleObjects: not simulated");
    if (fails(F_WaitForMultipleObjects))
        return WAIT_FAILED;
    return wait_for_events(count, handles, timeout_ms);
}

DWORD WaitForSingleObject(HANDLE handle, DWORD timeout_ms)
{
    KERNEL;
    if (fails(F_WaitForSingleObject))
        return WAIT_FAILED;
    return wait_for_events(1, &handle, timeout_ms);
}

BOOL CloseHandle(HANDLE handle)
{
    KERNEL;
    object_t *object = get_any((uintptr_t)handle, "CloseHandle");
    if (object->kind == A_SOCKET)
        sim_fail("CloseHandle: %d is a socket", object->handle);
    if (object->first != NULL)
        sim_fail("file %d is closed while %s #%d is pending", object->handle,
                 op_names[object->first->kind], object->first->number);
    if (object->content != NULL && this_thread()->locks != 0)
        sim_fail("CloseHandle, which may go to another machine, is called with a lock");
    if (object->transmits > 0)
        sim_fail("file %d is closed while TransmitFile has it", object->handle);
    close_object(object);
    return 1;
}

/* -- the port -------------------------------------------------------------------------------- */

HANDLE CreateIoCompletionPort(HANDLE file, HANDLE port, ULONG_PTR key, DWORD threads)
{
    KERNEL;
    object_t *sock = NULL;
    if (file != INVALID_HANDLE_VALUE)
        sock = io_of((uintptr_t)file, "CreateIoCompletionPort");
    if (fails(F_CreateIoCompletionPort)) {
        winsock.n_unattached += sock != NULL && !sock->listening && sock->client != NULL
                                && !sock->client->script.called;
        return NULL;
    }
    if (sock == NULL) {
        object_t *made = new_object(A_PORT);
        // 0: as many as there are CPUs, and there is one.
        made->threads = threads == 0 ? 1 : threads;
        return (HANDLE)(uintptr_t)made->handle;
    }
    get((uintptr_t)port, A_PORT, "CreateIoCompletionPort");
    if (sock->on_port == ANOTHER_PORT) {
        error_is(ERROR_INVALID_PARAMETER);
        return NULL;
    }
    if (sock->on_port)
        sim_fail("handle %d is on a port already", sock->handle);
    sock->on_port = OUR_PORT;
    sock->key = key;
    return port;
}

int sim_unattached(void)
{
    return winsock.n_unattached;
}

BOOL SetFileCompletionNotificationModes(HANDLE file, UCHAR flags)
{
    KERNEL;
    object_t *sock = io_of((uintptr_t)file, "SetFileCompletionNotificationModes");
    if (sock->datagrams)
        sim_fail("of datagrams Windows may forget what it has not told at once");
    if (fails(F_SetFileCompletionNotificationModes))
        return 0;
    if (!config()->skips)
        return error_is(ERROR_INVALID_FUNCTION);
    sock->skip = (flags & FILE_SKIP_COMPLETION_PORT_ON_SUCCESS) != 0;
    return 1;
}

BOOL PostQueuedCompletionStatus(HANDLE port, DWORD nbytes, ULONG_PTR key, OVERLAPPED *overlapped)
{
    KERNEL;
    sim_point();
    get((uintptr_t)port, A_PORT, "PostQueuedCompletionStatus");
    check_unused(overlapped, "PostQueuedCompletionStatus");
    if (fails(F_PostQueuedCompletionStatus))
        return 0;
    sim_note("packet posted", ++winsock.last_number, 0);
    object_t *accepted = take_over(overlapped);
    packet_t *packet = queue_packet(overlapped, STATUS_SUCCESS, nbytes, winsock.last_number, NULL);
    packet->key = key;
    packet->accepted = accepted;
    sim_point();
    return 1;
}

/* Where more threads wait for packets than the port lets run, one that computes, which for Windows
   is whoever has packets and waits for nothing, keeps the others from theirs. */
static void check_concurrency(object_t *port)
{
    port->lookers |= (uint64_t)1 << this_thread()->id % 64;
    int n = __builtin_popcountll(port->lookers);
    if (n > (int)port->threads)
        sim_fail("%d threads look at a port that lets %u run", n, port->threads);
}

/* Takes one of those that wait.  Foreign ones keep their order, so that it is known which comes. */
static packet_t *take_packet(void)
{
    packet_t **at = &winsock.packets;
    uint32_t skip = config()->profile->fifo ? 0 : sim_random((uint32_t)winsock.n_packets);
    while (skip-- > 0)
        at = &(*at)->next;
    if ((*at)->foreign)
        for (at = &winsock.packets; !(*at)->foreign;)
            at = &(*at)->next;
    packet_t *packet = *at;
    *at = packet->next;
    if (packet->next == NULL)
        winsock.packets_tail = at;
    winsock.n_packets--;
    if (packet->foreign)
        return packet;
    give_back(packet->overlapped, sizeof(OVERLAPPED));
    // What is posted says nothing of the OVERLAPPED that it comes with.
    if (packet->sock != NULL) {
        packet->overlapped->Internal = packet->status;
        packet->overlapped->InternalHigh = packet->nbytes;
    }
    if (packet->accepted != NULL)
        packet->accepted->untold = 0;
    return packet;
}

BOOL GetQueuedCompletionStatusEx(HANDLE port, OVERLAPPED_ENTRY *entries, ULONG count,
                                 ULONG *removed, DWORD timeout_ms, BOOL alertable)
{
    KERNEL;
    uint64_t until_us = deadline_us(timeout_ms);
    if (alertable || count < 1)
        sim_fail("GetQueuedCompletionStatusEx: not simulated");
    if (this_thread()->locks != 0)
        sim_fail("a thread waits for the port with a lock");
    this_thread()->looks++;
    *removed = 1;       // what it says after a failure counts for nothing
    if (fails(F_GetQueuedCompletionStatusEx))
        return 0;
    sim_point();
    check_concurrency(get((uintptr_t)port, A_PORT, "GetQueuedCompletionStatusEx"));
    while (winsock.packets == NULL) {
        if (until_us <= now_us())
            return error_is(WAIT_TIMEOUT);
        wait_for(WAIT_PORT, until_us);
    }
    ULONG n = config()->plain ? count : 1 + sim_random(count);
    for (*removed = 0; *removed < n && winsock.packets != NULL; ++*removed) {
        packet_t *packet = take_packet();
        // Its Internal is reserved, and says nothing.
        entries[*removed] = (OVERLAPPED_ENTRY){packet->key, packet->overlapped, RESERVED,
                                               (DWORD)packet->nbytes};
        sim_note("packet dequeued", packet->number, 0);
        // Another thread brings what the connection has waited for: its share begins anew.
        if (packet->sock != NULL && packet->sock->inlined_by != this_thread()->id
            && packet->sock->inlined > 0)
            packet->sock->inlined -= packet->sock->inlined > SHARE ? SHARE : packet->sock->inlined;
        __real_free(packet);
    }
    sim_point();
    return 1;
}
