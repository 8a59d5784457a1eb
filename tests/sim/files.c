/* Files, as far as a server sends them: how long they are, and what is in them.

   Called by sockets.c and completions.c, by the engine and the driver; may call ops.c and
   objects.c. */
#include "objects.h"

HANDLE sim_file(int client, size_t offset, size_t at, size_t size)
{
    KERNEL;
    object_t *file = new_object(A_FILE);
    file->client = &winsock.clients[client];
    file->offset = offset;
    file->at = at;
    file->size = size;
    return (HANDLE)(uintptr_t)file->handle;
}

BOOL GetFileSizeEx(HANDLE handle, LARGE_INTEGER *size)
{
    KERNEL;
    sim_point();
    object_t *file = get((uintptr_t)handle, A_FILE, "GetFileSizeEx");
    if (this_thread()->locks != 0)
        sim_fail("GetFileSizeEx, which may go to another machine, is called with a lock");
    if (fails(F_GetFileSizeEx)) {
        tell(file->client->sock, (int)GetLastError());
        return 0;
    }
    size->QuadPart = (LONG64)file->size;
    return 1;
}

void take_file(object_t *sock, const object_t *file, size_t offset, size_t nbytes)
{
    if (file->closed)
        sim_fail("file %d is closed, and client %lld is sent of it", file->handle,
                 client_of(sock));
    // Before `offset` it has nothing that belongs into a stream.
    if (offset < file->offset || file->at + (offset - file->offset) != sock->sent)
        sim_fail("client %lld is sent byte %zu of a file in place of byte %zu of its stream",
                 client_of(sock), offset, sock->sent);
    sock->sent += nbytes;
}
