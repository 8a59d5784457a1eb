/* An echo server on a completion port with nothing in it that an echo does not need: what an engine
   could at best do, for the benchmark to measure the others against.

       ceiling [--workers N] [--http]

   With --http it looks for the ends of requests' heads in what comes, and sends for each the answer
   of examples/cython_handler in the place of an echo.

   One struct and one buffer per connection, and one operation of it under way at a time: AcceptEx,
   then WSARecv, WSASend, WSARecv … So a connection is only ever with one thread, and nothing on its
   way is locked. It has the engine's bound (iocpx/_engine.pyx) on what a connection gets in a row:
   one whose operations complete at once may do INLINE_BUDGET of them, then its worker looks at the
   port first. It does not have the engine's queue, in which all wait for their turn, so with a
   thousand connections some are served far more often than others. A connection stays with its
   worker: posted to the port instead, for any idle worker to take, it cost up to a third of the
   messages/s with the workers free on two CPUs and gained nothing with them on one.

   The dialogue is that of iocpx/bench/servers.py: one JSON object per line, first {"port": …}, then
   an answer for each line "cpu" or "stats" on stdin, and {"totals": {}} after its end. */

#define WIN32_LEAN_AND_MEAN
#include <winsock2.h>
#include <mswsock.h>
#include <windows.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ACCEPTS = 64,         /* AcceptEx calls kept pending */
    ADDRESS_BYTES = 64,   /* an address as AcceptEx writes it; 16 more than its struct at least */
    BUFFER_BYTES = 65536,
    SMALL_BYTES = 1024,   /* of it, that are posted until a receive has filled them */
    INLINE_BUDGET = 2,
    MAX_WORKERS = 64,
    PACKETS_PER_WAIT = 16,
};

typedef enum { ACCEPTING, RECEIVING, SENDING } doing_t;

typedef struct conn {
    OVERLAPPED overlapped; /* first, so that a packet's OVERLAPPED is the connection's address */
    SOCKET sock;
    doing_t doing;
    DWORD room;       /* bytes that the next receive is given */
    DWORD size, sent; /* bytes in the buffer, and how many of them are on their way already */
    DWORD completed;  /* while it waits in carry: the bytes of its last operation */
    DWORD matched;    /* with --http: bytes of HEAD_END that have come in a row */
    struct conn *next;
    char buffer[BUFFER_BYTES];
} conn_t;

typedef struct {
    /* Written by the worker alone; read now and then by the main thread. Apart from the other
       workers' by a cache line and the one that the processor fetches along with it. */
    volatile LONG64 waits, ops_posted;
    conn_t *carry, **carry_end; /* connections that have used up their budget */
    HANDLE thread;
    char apart[128];
} worker_t;

static HANDLE port;
static SOCKET listener;
static LPFN_ACCEPTEX accept_ex;
static volatile LONG workers_idle;
static worker_t workers[MAX_WORKERS];
static int http;

static const char HEAD_END[] = "\r\n\r\n";
static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world!";

enum {
    HEAD_END_BYTES = sizeof HEAD_END - 1,
    ANSWER_BYTES = sizeof ANSWER - 1,
};

/* A receive is never given more than SMALL_BYTES there, and all that they may ask for has room. */
typedef char room_for_answers[SMALL_BYTES / HEAD_END_BYTES * ANSWER_BYTES <= BUFFER_BYTES ? 1 : -1];

static void die(const char *what)
{
    fprintf(stderr, "ceiling: %s failed with %lu\n", what, (unsigned long)GetLastError());
    exit(1);
}

static SOCKET new_socket(void)
{
    SOCKET sock = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    if (sock == INVALID_SOCKET)
        die("WSASocket");
    return sock;
}

static void accept_post(void)
{
    DWORD received;
    conn_t *conn = malloc(sizeof *conn);
    if (conn == NULL)
        die("malloc");
    memset(conn, 0, offsetof(conn_t, buffer));
    conn->sock = new_socket();
    conn->room = SMALL_BYTES;
    while (!accept_ex(listener, conn->sock, conn->buffer, 0, ADDRESS_BYTES, ADDRESS_BYTES, &received,
                      &conn->overlapped)
           && WSAGetLastError() != ERROR_IO_PENDING)
        if (WSAGetLastError() != WSAECONNRESET) /* a client that has gone again */
            die("AcceptEx");
}

static void conn_close(conn_t *conn)
{
    closesocket(conn->sock);
    free(conn);
}

static int conn_attach(conn_t *conn)
{
    BOOL on = TRUE;
    return setsockopt(conn->sock, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (char *)&listener,
                      sizeof listener) == 0
        && setsockopt(conn->sock, IPPROTO_TCP, TCP_NODELAY, (char *)&on, sizeof on) == 0
        && CreateIoCompletionPort((HANDLE)conn->sock, port, 0, 0) != NULL
        && SetFileCompletionNotificationModes(
            (HANDLE)conn->sock,
            FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE);
}

/* Post the connection's next operation. 1: it has completed at once, with so many bytes; 0: it is
   pending; -1: it has failed. */
static int conn_post(worker_t *worker, conn_t *conn, DWORD *nbytes)
{
    DWORD flags = 0;
    WSABUF part;
    int result;
    memset(&conn->overlapped, 0, sizeof conn->overlapped);
    if (conn->sent < conn->size) {
        conn->doing = SENDING;
        part.buf = conn->buffer + conn->sent;
        part.len = conn->size - conn->sent;
        result = WSASend(conn->sock, &part, 1, nbytes, 0, &conn->overlapped, NULL);
    } else {
        conn->doing = RECEIVING;
        part.buf = conn->buffer;
        part.len = conn->room;
        result = WSARecv(conn->sock, &part, 1, nbytes, &flags, &conn->overlapped, NULL);
    }
    worker->ops_posted++;
    if (result == 0)
        return 1;
    return WSAGetLastError() == WSA_IO_PENDING ? 0 : -1;
}

/* So many bytes have come: put the answers in their place; gives the bytes of these. */
static DWORD answer_requests(conn_t *conn, DWORD nbytes)
{
    DWORD i, answers = 0;
    for (i = 0; i < nbytes; i++) {
        if (conn->buffer[i] == HEAD_END[conn->matched])
            conn->matched++;
        else
            conn->matched = conn->buffer[i] == HEAD_END[0];
        if (conn->matched == HEAD_END_BYTES) {
            conn->matched = 0;
            answers++;
        }
    }
    for (i = 0; i < answers; i++)
        memcpy(conn->buffer + i * ANSWER_BYTES, ANSWER, ANSWER_BYTES);
    return answers * ANSWER_BYTES;
}

/* An operation has completed with so many bytes: do the next ones, as far as the budget goes. */
static void conn_serve(worker_t *worker, conn_t *conn, DWORD nbytes)
{
    int budget, outcome;
    for (budget = INLINE_BUDGET; budget > 0; budget--) {
        if (conn->doing == SENDING) {
            conn->sent += nbytes;
        } else if (conn->doing == RECEIVING) {
            if (nbytes == 0) { /* the end of the stream */
                conn_close(conn);
                return;
            }
            conn->size = http ? answer_requests(conn, nbytes) : nbytes;
            if (nbytes == conn->room && conn->room < BUFFER_BYTES && !http)
                conn->room *= 8;
            conn->sent = 0;
        }
        outcome = conn_post(worker, conn, &nbytes);
        if (outcome < 0)
            conn_close(conn);
        if (outcome <= 0)
            return;
    }
    conn->completed = nbytes;
    conn->next = NULL;
    *worker->carry_end = conn;
    worker->carry_end = &conn->next;
}

static void on_packet(worker_t *worker, const OVERLAPPED_ENTRY *entry)
{
    conn_t *conn = (conn_t *)entry->lpOverlapped;
    if (conn->doing == ACCEPTING)
        accept_post();
    if (conn->overlapped.Internal != 0 || (conn->doing == ACCEPTING && !conn_attach(conn)))
        conn_close(conn);
    else
        conn_serve(worker, conn, entry->dwNumberOfBytesTransferred);
}

static DWORD WINAPI run_worker(void *argument)
{
    worker_t *worker = argument;
    OVERLAPPED_ENTRY entries[PACKETS_PER_WAIT];
    conn_t *conn, *next;
    ULONG i, n;
    BOOL ok, others_idle;
    for (;;) {
        /* One packet where another worker is there to take the next. */
        others_idle = InterlockedIncrement(&workers_idle) > 1;
        ok = GetQueuedCompletionStatusEx(port, entries, others_idle ? 1 : PACKETS_PER_WAIT, &n,
                                         worker->carry == NULL ? INFINITE : 0, FALSE);
        InterlockedDecrement(&workers_idle);
        worker->waits++;
        if (!ok && GetLastError() != WAIT_TIMEOUT)
            die("GetQueuedCompletionStatusEx");
        conn = worker->carry;
        worker->carry = NULL;
        worker->carry_end = &worker->carry;
        for (i = 0; ok && i < n; i++) {
            if (entries[i].lpOverlapped == NULL) { /* the main thread's: the end */
                PostQueuedCompletionStatus(port, 0, 0, NULL); /* for the next worker */
                return 0;
            }
            on_packet(worker, &entries[i]);
        }
        for (; conn != NULL; conn = next) {
            next = conn->next;
            conn_serve(worker, conn, conn->completed);
        }
    }
}

/* Returns the TCP port that the system has chosen. */
static int listen_on_loopback(void)
{
    GUID id = WSAID_ACCEPTEX;
    struct sockaddr_in address;
    int size = sizeof address, i;
    DWORD nbytes;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = new_socket();
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0
        || listen(listener, SOMAXCONN) != 0
        || getsockname(listener, (struct sockaddr *)&address, &size) != 0
        || WSAIoctl(listener, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, &accept_ex,
                    sizeof accept_ex, &nbytes, NULL, NULL) != 0
        || CreateIoCompletionPort((HANDLE)listener, port, 0, 0) == NULL)
        die("listening");
    for (i = 0; i < ACCEPTS; i++)
        accept_post();
    return ntohs(address.sin_port);
}

static double seconds(FILETIME time)
{
    return ((double)time.dwHighDateTime * 4294967296.0 + time.dwLowDateTime) / 1e7;
}

static void answer(const char *line, int n_workers)
{
    FILETIME created, ended, system, user;
    LONG64 waits = 0, ops_posted = 0;
    int i;
    if (strcmp(line, "cpu\n") == 0) {
        GetProcessTimes(GetCurrentProcess(), &created, &ended, &system, &user);
        printf("{\"user_s\": %.7f, \"system_s\": %.7f}\n", seconds(user), seconds(system));
    } else if (strcmp(line, "stats\n") == 0) {
        for (i = 0; i < n_workers; i++) {
            waits += workers[i].waits;
            ops_posted += workers[i].ops_posted;
        }
        printf("{\"stats\": {\"waits\": %lld, \"ops_posted\": %lld}}\n", (long long)waits,
               (long long)ops_posted);
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    WSADATA data;
    char line[16];
    int i, n_workers = 2, tcp_port;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--http") == 0)
            http = 1;
        else if (strcmp(argv[i], "--workers") == 0 && i + 1 < argc)
            n_workers = atoi(argv[++i]);
        else
            n_workers = 0;
        if (n_workers < 1 || n_workers > MAX_WORKERS) {
            fprintf(stderr, "usage: ceiling [--workers 1…%d] [--http]\n", MAX_WORKERS);
            return 2;
        }
    }
    /* Ctrl+C reaches the whole console; the process that started this one decides. */
    SetConsoleCtrlHandler(NULL, TRUE);
    if (WSAStartup(MAKEWORD(2, 2), &data) != 0)
        die("WSAStartup");
    port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 0);
    if (port == NULL)
        die("CreateIoCompletionPort");
    tcp_port = listen_on_loopback();
    for (i = 0; i < n_workers; i++) {
        workers[i].carry_end = &workers[i].carry;
        workers[i].thread = CreateThread(NULL, 0, run_worker, &workers[i], 0, NULL);
        if (workers[i].thread == NULL)
            die("CreateThread");
    }
    printf("{\"port\": %d, \"pid\": %lu, \"workers\": %d, \"versions\": {}}\n", tcp_port,
           (unsigned long)GetCurrentProcessId(), n_workers);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL)
        answer(line, n_workers);
    PostQueuedCompletionStatus(port, 0, 0, NULL);
    for (i = 0; i < n_workers; i++)
        WaitForSingleObject(workers[i].thread, INFINITE);
    printf("{\"totals\": {}}\n");
    fflush(stdout);
    return 0; /* the sockets close with the process */
}
