/* Files: those that a server sends, how long they are, and what is in them; and those that are read
   and written.

   Called by sockets.c and completions.c, by the engine and the driver; may call ops.c and
   objects.c. */
#include "objects.h"

#include <string.h>

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

/* -- read and written ------------------------------------------------------------------------ */

enum { ROOM = 4 * SIM_DISK };   /* what is appended has the rest */

unsigned char sim_disk_byte(size_t at)
{
    return (unsigned char)(1 + at * 7 % 101);   // never 0, nor what is appended
}

HANDLE sim_disk_file(size_t size)
{
    KERNEL;
    object_t *file = new_object(A_FILE);
    file->content = __real_calloc(ROOM, 1);
    file->size = size;
    for (size_t i = 0; i < size; i++)
        file->content[i] = sim_disk_byte(i);
    return (HANDLE)(uintptr_t)file->handle;
}

static object_t *disk_of(HANDLE handle)
{
    return winsock.objects[(uintptr_t)handle / 4 - 1];
}

void sim_disk_check(HANDLE handle, size_t offset, size_t nbytes)
{
    KERNEL;
    const object_t *file = disk_of(handle);
    for (size_t i = offset; i < offset + nbytes; i++)
        if (i >= file->size || file->content[i] != sim_disk_byte(i))
            sim_fail("byte %zu of file %d was written, and is not there", i, file->handle);
}

size_t sim_disk_appended(HANDLE handle)
{
    KERNEL;
    return disk_of(handle)->appended;
}

/* Returns how many bytes there are to read. */
static size_t read_disk(const object_t *file, size_t offset, void *buffer, size_t nbytes)
{
    if (offset >= file->size)
        return 0;
    if (nbytes > file->size - offset)
        nbytes = file->size - offset;
    memcpy(buffer, file->content + offset, nbytes);
    return nbytes;
}

static void write_disk(object_t *file, uint64_t offset, const void *buffer, size_t nbytes)
{
    if (offset == UINT64_MAX) {
        offset = file->size;
        file->appended += nbytes;
    }
    if (offset > ROOM || nbytes > ROOM - offset)
        sim_fail("byte %llu of file %d is written", (unsigned long long)offset, file->handle);
    memcpy(file->content + offset, buffer, nbytes);
    if (offset + nbytes > file->size)
        file->size = offset + nbytes;
}

void run_file(op_t *op)
{
    object_t *file = op->sock;
    WSABUF *buffer = op->buffers;
    int writes = op->kind == A_WRITE;
    if (writes && sum_of(op) != op->sum)
        sim_fail("what WriteFile #%d writes has been changed", op->number);
    take_op_back(op);
    if (op->cancelled && sim_random(2)) {
        // Of a write any part may be done.
        if (writes)
            write_disk(file, op->offset, buffer->buf, sim_random(buffer->len + 1));
        complete(op, STATUS_CANCELLED, 0);
    } else if (chance(config()->resets)) {
        complete(op, STATUS_UNEXPECTED_NETWORK_ERROR, 0);
    } else if (writes) {
        write_disk(file, op->offset, buffer->buf, buffer->len);
        complete(op, STATUS_SUCCESS, buffer->len);
    } else {
        size_t nbytes = read_disk(file, op->offset, buffer->buf, buffer->len);
        complete(op, nbytes == 0 ? STATUS_END_OF_FILE : STATUS_SUCCESS, nbytes);
    }
}

static object_t *begin_file(HANDLE handle, const DWORD *done, OVERLAPPED *overlapped,
                            const char *call)
{
    sim_point();
    object_t *file = io_of((uintptr_t)handle, call);
    if (file->kind != A_FILE || done != NULL || overlapped == NULL)
        sim_fail("%s: not simulated so", call);
    if (!file->on_port)
        sim_fail("%s: file %d is on no port", call, file->handle);
    if (this_thread()->locks != 0)
        sim_fail("%s, which may wait for a disk, is called with a lock", call);
    check_unused(overlapped, call);
    return file;
}

static uint64_t offset_of(const OVERLAPPED *overlapped)
{
    return (uint64_t)overlapped->OffsetHigh << 32 | overlapped->Offset;
}

static BOOL file_at_once(object_t *file, OVERLAPPED *overlapped, size_t nbytes)
{
    sim_note("a file at once, bytes", file->handle, (long long)nbytes);
    overlapped->Internal = STATUS_SUCCESS;
    overlapped->InternalHigh = nbytes;
    if (!file->skip)
        queue_packet(overlapped, STATUS_SUCCESS, nbytes, ++winsock.last_number, file);
    sim_point();
    return 1;
}

static BOOL file_pends(enum op_kind kind, object_t *file, OVERLAPPED *overlapped, void *buffer,
                       DWORD nbytes)
{
    WSABUF memory = {nbytes, buffer};
    op_t *op = new_op(kind, file, overlapped, &memory, 1);
    op->offset = offset_of(overlapped);
    lend_op(op);
    sim_point();
    return error_is(ERROR_IO_PENDING);
}

BOOL ReadFile(HANDLE handle, void *buffer, DWORD nbytes, DWORD *done, OVERLAPPED *overlapped)
{
    KERNEL;
    object_t *file = begin_file(handle, done, overlapped, "ReadFile");
    if (fails(F_ReadFile))
        return 0;
    if (sim_random(2))
        return file_pends(A_READ, file, overlapped, buffer, nbytes);
    size_t read = read_disk(file, offset_of(overlapped), buffer, nbytes);
    return read == 0 ? error_is(ERROR_HANDLE_EOF) : file_at_once(file, overlapped, read);
}

BOOL WriteFile(HANDLE handle, const void *buffer, DWORD nbytes, DWORD *done,
               OVERLAPPED *overlapped)
{
    KERNEL;
    object_t *file = begin_file(handle, done, overlapped, "WriteFile");
    if (fails(F_WriteFile))
        return 0;
    if (sim_random(2))
        return file_pends(A_WRITE, file, overlapped, (void *)(uintptr_t)buffer, nbytes);
    write_disk(file, offset_of(overlapped), buffer, nbytes);
    return file_at_once(file, overlapped, nbytes);
}

BOOL GetOverlappedResult(HANDLE handle, OVERLAPPED *overlapped, DWORD *transferred, BOOL wait)
{
    KERNEL;
    io_of((uintptr_t)handle, "GetOverlappedResult");
    check_unused(overlapped, "GetOverlappedResult");
    if (wait)
        sim_fail("GetOverlappedResult: not simulated so");
    *transferred = (DWORD)overlapped->InternalHigh;
    switch (overlapped->Internal) {
    case STATUS_SUCCESS:
        return 1;
    case STATUS_END_OF_FILE:
        return error_is(ERROR_HANDLE_EOF);
    case STATUS_CANCELLED:
        return error_is(ERROR_OPERATION_ABORTED);
    case STATUS_UNEXPECTED_NETWORK_ERROR:
        return error_is(ERROR_UNEXP_NET_ERR);
    }
    sim_fail("GetOverlappedResult: %zx is no outcome", overlapped->Internal);
}
