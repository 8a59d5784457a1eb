/* Packets of somebody else on the same port: posted at random, and known again when the engine hands
   them back.

   Called by the driver, by no other room; may call ops.c and objects.c. */
#include "objects.h"

/* As OVERLAPPED.Internal: nobody has anything to do with what it says. */
enum { UNTOUCHED = 0x7777 };

int sim_post_foreign(HANDLE port)
{
    KERNEL;
    get((uintptr_t)port, A_PORT, "sim_post_foreign");
    if (winsock.n_foreign == MAX_FOREIGN)
        return 0;
    foreign_t *foreign = __real_calloc(1, sizeof(*foreign));
    OVERLAPPED *overlapped = sim_random(3) == 0 ? NULL : &foreign->overlapped;
    foreign->overlapped.Internal = UNTOUCHED;
    // Any key but the engine's, small ones and NULL among them.
    foreign->entry = (OVERLAPPED_ENTRY){sim_random(3), overlapped,
                                        RESERVED, sim_random(5000)};
    winsock.foreign[winsock.n_foreign++] = foreign;
    packet_t *packet = queue_packet(overlapped, STATUS_SUCCESS,
                                    foreign->entry.dwNumberOfBytesTransferred,
                                    ++winsock.last_number, NULL);
    packet->foreign = 1;
    packet->key = foreign->entry.lpCompletionKey;
    sim_note("foreign packet", packet->number, overlapped != NULL);
    return 1;
}

void sim_foreign_came(const OVERLAPPED_ENTRY *entry)
{
    KERNEL;
    if (winsock.n_foreign_back == winsock.n_foreign)
        sim_fail("a foreign packet comes that nobody has posted");
    foreign_t *foreign = winsock.foreign[winsock.n_foreign_back++];
    const OVERLAPPED_ENTRY *posted = &foreign->entry;
    if (entry->lpCompletionKey != posted->lpCompletionKey
        || entry->lpOverlapped != posted->lpOverlapped || entry->Internal != posted->Internal
        || entry->dwNumberOfBytesTransferred != posted->dwNumberOfBytesTransferred)
        sim_fail("foreign packet %d is changed, or another one comes", winsock.n_foreign_back);
    give_back(&foreign->overlapped, sizeof(OVERLAPPED));
    if (foreign->overlapped.Internal != UNTOUCHED)
        sim_fail("the OVERLAPPED of foreign packet %d is changed", winsock.n_foreign_back);
    __real_free(foreign);
}
