/* What there is in a run: the profiles, handles, and the set of what can happen by itself.

   Called by every other room and, for the begin and the end of a run, by the scheduler; calls
   machine.c alone. */
#include "objects.h"

#include <string.h>

enum { FIRST_HANDLE = 4 };

const sim_profile_t sim_profiles[] = {
    {.name = "windows", .inline_accepts = 1, .accepted_outlive = 1, .inherited_events = 1,
     .backlog_reset = (int)STATUS_CONNECTION_RESET},
    {.name = "wine", .fifo = 1, .data_before_reset = 1, .reset_as_eof = 1, .lost_sends = 1,
     .lax_contexts = 1, .backlog_reset = (int)STATUS_UNEXPECTED_NETWORK_ERROR},
};
const int sim_n_profiles = (int)(sizeof(sim_profiles) / sizeof(sim_profiles[0]));

struct winsock winsock;

/* -- sets ------------------------------------------------------------------------------------ */

void set_member(set_t *set, void *thing, int *at, int on)
{
    if (on == (*at >= 0))
        return;
    if (!on) {
        set->members[*at] = set->members[--set->n];
        *set->members[*at].at = *at;
        *at = -1;
        return;
    }
    if (set->n == set->room) {
        set->room = set->room * 2 + 64;
        member_t *more = __real_calloc((size_t)set->room, sizeof(*more));
        if (set->n > 0)
            memcpy(more, set->members, (size_t)set->n * sizeof(*more));
        __real_free(set->members);
        set->members = more;
    }
    *at = set->n;
    set->members[set->n++] = (member_t){at, thing};
}

/* -- handles --------------------------------------------------------------------------------- */

object_t *new_object(enum object_kind kind)
{
    if (winsock.n_objects == winsock.room_objects) {
        winsock.room_objects = winsock.room_objects * 2 + 64;
        object_t **more = __real_calloc((size_t)winsock.room_objects, sizeof(*more));
        if (winsock.n_objects > 0)
            memcpy(more, winsock.objects, (size_t)winsock.n_objects * sizeof(*more));
        __real_free(winsock.objects);
        winsock.objects = more;
    }
    object_t *object = __real_calloc(1, sizeof(*object));
    object->kind = kind;
    object->handle = FIRST_HANDLE * (winsock.n_objects + 1);
    winsock.objects[winsock.n_objects++] = object;
    return object;
}

object_t *new_socket(int family)
{
    object_t *sock = new_object(A_SOCKET);
    sock->family = family;
    sock->backlog_tail = &sock->backlog;
    return sock;
}

object_t *get_any(uintptr_t handle, const char *call)
{
    if (handle % FIRST_HANDLE != 0 || handle < FIRST_HANDLE
        || handle / FIRST_HANDLE > (uintptr_t)winsock.n_objects)
        sim_fail("%s: %lld is no handle", call, (long long)handle);
    object_t *object = winsock.objects[handle / FIRST_HANDLE - 1];
    if (object->closed)
        sim_fail("%s: handle %lld is closed", call, (long long)handle);
    return object;
}

object_t *get(uintptr_t handle, enum object_kind kind, const char *call)
{
    object_t *object = get_any(handle, call);
    if (object->kind != kind)
        sim_fail("%s: handle %lld is something else", call, (long long)handle);
    return object;
}

object_t *sock_of(SOCKET s, const char *call)
{
    return get(s, A_SOCKET, call);
}

object_t *io_of(uintptr_t handle, const char *call)
{
    object_t *object = get_any(handle, call);
    if (object->kind != A_SOCKET && object->content == NULL)
        sim_fail("%s: handle %lld is something else", call, (long long)handle);
    return object;
}

long long client_of(const object_t *sock)
{
    return sock->client == NULL ? -1 : sock->client->number;
}

void close_object(object_t *object)
{
    object->closed = 1;
    sim_note("handle closed", object->handle, client_of(object));
}

/* -- a run ----------------------------------------------------------------------------------- */

void winsock_begin(void)
{
    member_t *members = winsock.ready.members;
    int room = winsock.ready.room;
    memset(&winsock, 0, sizeof(winsock));
    winsock.ready.members = members;
    winsock.ready.room = room;
    winsock.packets_tail = &winsock.packets;
}

void winsock_end(void)
{
    if (winsock.n_ops > 0)
        sim_fail("%d operations are still pending", winsock.n_ops);
    if (winsock.over != NULL)
        sim_fail("%s #%d is over, and nobody was told", op_names[winsock.over->kind],
                 winsock.over->number);
    if (winsock.packets != NULL)
        sim_fail("packet #%d was never dequeued", winsock.packets->number);
    if (winsock.n_foreign_back != winsock.n_foreign)
        sim_fail("%d of %d foreign packets came back", winsock.n_foreign_back, winsock.n_foreign);
    for (int i = 0; i < winsock.n_objects; i++) {
        if (!winsock.objects[i]->closed)
            sim_fail("handle %d is still open", winsock.objects[i]->handle);
        __real_free(winsock.objects[i]->content);
        __real_free(winsock.objects[i]);
    }
    __real_free(winsock.objects);
    __real_free(winsock.clients);
}
