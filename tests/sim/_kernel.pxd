"""The simulated kernel as its drivers see it: kernel.h."""

from libc.stdint cimport uint32_t, uint64_t

from iocpx._winsock cimport HANDLE, OVERLAPPED_ENTRY, SOCKET, ULONG_PTR

cdef extern from "kernel.h" nogil:
    ctypedef struct sim_profile_t:
        const char *name
    const sim_profile_t *sim_profiles
    const int sim_n_profiles

    ctypedef struct sim_config_t:
        const sim_profile_t *profile
        int clients
        int preempt
        int stalls
        int faults
        int resets
        int shorts
        int handles
        int skips
        int transmits
        size_t send_room
        size_t bytes
        int inline_limit
        int plain

    int ENDS_FIN, ENDS_RESET, ENDS_NEVER
    int READS_NEVER, READS_LATER, READS
    ctypedef struct sim_script_t:
        size_t to_send
        int end
        int reads
        int waits
        int called

    ctypedef struct sim_client_t:
        int connected
        size_t sent
        size_t received
        size_t taken
        size_t given
        int ended
        int saw_end
        int reset
        int cut
        int unreset
        int failed

    void sim_begin(uint64_t seed)
    void sim_configure(const sim_config_t *config)
    void sim_script(int client, const sim_script_t *script)
    void sim_send_to(int client, SOCKET listener)
    void sim_let_in(int client)
    void sim_call(int client)
    SOCKET sim_connected(int client, ULONG_PTR key)
    int SIM_SERVER
    void sim_address(int client, char *address)
    void sim_feed(int client, size_t nbytes)
    void sim_spawn(const char *name, void (*body)(void *) noexcept nogil, void *argument)
    void sim_passing()
    bint sim_alone()
    void sim_run()
    void (*sim_on_idle)() noexcept
    void sim_end()
    SOCKET sim_bind(int family)
    void sim_share(SOCKET s)
    int sim_backlog(SOCKET s)
    HANDLE sim_file(int client, size_t offset, size_t at, size_t size)
    int SIM_DISK, SIM_APPENDED
    HANDLE sim_disk_file(size_t size)
    unsigned char sim_disk_byte(size_t at)
    void sim_disk_check(HANDLE handle, size_t offset, size_t nbytes)
    size_t sim_disk_appended(HANDLE handle)
    SOCKET sim_datagrams(int to_come)
    void sim_more_datagrams(SOCKET s, int more)
    int sim_datagrams_come(SOCKET s)
    size_t sim_datagram_bytes(int number)
    unsigned char sim_datagram_byte(int number, size_t at)
    void sim_lend_socket(SOCKET s)
    bint sim_post_foreign(HANDLE port)
    void sim_foreign_came(const OVERLAPPED_ENTRY *entry)
    int sim_unattached()
    void sim_client(int client, sim_client_t *out)
    bint sim_was_told(int client, int error)
    unsigned char sim_byte(int client, size_t at)
    long sim_bytes_allocated()
    void sim_measure(int on)
    void sim_faults(int on)
    void sim_plan_fault(int function, long n, int c, int sticky)
    long sim_calls(int function)
    int sim_n_functions()
    const char *sim_function(int function)
    int sim_function_code(int function, int c)
    bint sim_fault_hit()
    void sim_point()
    void sim_sleep(unsigned int ms)
    void sim_busy(unsigned int ms)
    void sim_atomic(int on)
    int sim_locks()
    uint32_t sim_random(uint32_t n)
    void sim_note(const char *what, long long a, long long b)
    void sim_fail(const char *format, ...)
    void sim_title(const char *title)
    uint64_t sim_digest()
    void sim_print_events()

cdef extern from "winsock2.h" nogil:
    const int AF_INET, AF_INET6
