"""Which of other people's tests of asyncio fail in the lab, on which loop and lane, and why.

`dev.py conformance` fails when another one does, and when one of these passes.
"""

from dataclasses import dataclass

EVERY_LANE = ("3.11", "3.13", "3.14", "3.14t")
SINCE_3_13 = ("3.13", "3.14", "3.14t")
EMBEDDED = ("3.11", "3.13")
BOTH_3_14 = ("3.14", "3.14t")
BOTH = ("stock", "iocpx")
STOCK = ("stock",)
OURS = ("iocpx",)


@dataclass(frozen=True)
class Expected:
    test: str  # MODULE.CLASS.METHOD
    reason: str
    loops: tuple = BOTH
    lanes: tuple = EVERY_LANE
    suite: str = "cpython"
    sometimes: bool = False  # it may pass as well


# Of it uvloop's own suite is run, too.
UVLOOPS_TLS = "test_tcp.Test_UV_TCPSSL"


def uvloop(tests, names, reason, loops=BOTH, **more):
    """Entries for the methods `names` of a class in winloop's suite, which is uvloop's."""
    suites = ("winloop", "uvloop") if tests == UVLOOPS_TLS else ("winloop",)
    return [
        Expected(f"{tests}.{name}", reason, loops, suite=suite, **more)
        for suite in suites
        for name in names
    ]


NO_SSL_PROTOCOL = (
    "the test reaches into asyncio's SSLProtocol, which pauses it by force, and ours has none"
)
NO_ASSERTS = "python.org's embedded library is compiled without assert statements"
UNREACHABLE = (
    "Wine 8 does not tell a UDP socket that nobody listens where it has sent to, and the test waits"
    " for that"
)
EOF_AFTER_ERROR = (
    "asyncio's transport tells an end of stream that has come already after its fatal error, so"
    " that readline() returns b'' in place of raising the error"
)
OLDER = "the test is of Debian's 3.11.2, and the lane's 3.11.9 has another text or call there"
SHUT_WITH_NOTIFY = (
    "asyncio closes its transport with the close_notify in hand that it keeps back while a send of"
    " 4 MB is pending, as Wine has it until the peer reads; the transport takes nothing more, and"
    " the test waits for the close_notify"
)
NEWER = "a test of what a later 3.13 than the lane's has mended"
NEWER_C = (
    "a test of what a later 3.14 than the lane's has mended, in C; all Python code is the later's"
)

# What winloop's tests ask of a loop, that asyncio does not promise, or not on Windows.
CONTEXT = (
    "uvloop calls a protocol in the context that its transport was made in, asyncio in that of"
    " whoever writes, resumes or closes"
)
NO_BUFFERED_PROTOCOL = (
    "the protocol has a get_buffer() and is no asyncio.BufferedProtocol, as asyncio asks"
)
SSL_AFTER_CLOSE = (
    "asyncio's SSLProtocol delivers what comes after close() or chokes on it, uvloop's discards it"
)
SSL_EOF = "asyncio's SSLProtocol tells of no end of the stream while its reading is paused"
OPEN_WHILE_USED = (
    "winloop keeps a socket open for the operation that uses it, whoever closes it; asyncio does"
    " not"
)
NO_READERS = "asyncio's proactor has no add_reader()"
NO_SIGINT = "asyncio's send_signal() on Windows is that of Popen, which takes no SIGINT"
NO_SIGNAL_HANDLERS = "asyncio has no add_signal_handler() on Windows"
NO_MESSAGES = "Wine 8 has no texts for the errors of Winsock, which the test reads"
SENT_AT_ONCE = (
    "the kernel takes what is written at once, and nothing is left for the test to see or to pause"
    " for"
)

EXPECTED = [
    # -- Wine
    Expected(
        "test_sock_lowlevel.ProactorEventLoopTests"
        ".test_datagram_send_to_non_listening_address_recvfrom",
        UNREACHABLE,
        lanes=SINCE_3_13,
    ),
    Expected(
        "test_sock_lowlevel.ProactorEventLoopTests"
        ".test_datagram_send_to_non_listening_address_recvfrom_into",
        UNREACHABLE,
        lanes=SINCE_3_13,
    ),
    *(
        Expected(
            f"test_events.{tests}.test_datagram_recvfrom_connection_reset_recovers",
            UNREACHABLE,
            lanes=BOTH_3_14,
        )
        for tests in ("ProactorEventLoopTests", "SelectEventLoopTests")
    ),
    Expected(
        "test_events.ProactorEventLoopTests.test_datagram_write_error_close_from_callback",
        "Wine 8 refuses a datagram that is too long at once, and the protocol closes its transport"
        " before the test has sent the second",
        STOCK,
        BOTH_3_14,
    ),
    Expected(
        "test_subprocess.SubprocessProactorTests.test_kill_issue43884",
        "CTRL_BREAK_EVENT needs a console, and there is none",
    ),
    Expected(
        "test_windows_events.ProactorTests.test_double_bind",
        "Wine 8 makes a named pipe twice in spite of FILE_FLAG_FIRST_PIPE_INSTANCE",
    ),
    # -- the lane
    Expected(
        "test_proactor_events.BaseProactorEventLoopTests.test_datagram_loop_reading_no_data",
        NO_ASSERTS,
        lanes=EMBEDDED,
    ),
    Expected(
        "test_proactor_events.ProactorSocketTransportTests.test_loop_reading_no_data",
        NO_ASSERTS,
        lanes=EMBEDDED,
    ),
    Expected(
        "test_selector_events.SelectorSocketTransportTests.test_write_ready_no_data",
        NO_ASSERTS,
        lanes=EMBEDDED,
    ),
    Expected(
        "test_base_events.BaseEventLoopWithSelectorTests.test_create_datagram_endpoint_wrong_sock",
        OLDER,
        lanes=("3.11",),
    ),
    Expected(
        "test_sslproto.SslProtoHandshakeTests.test_close_during_handshake",
        OLDER,
        lanes=("3.11",),
    ),
    Expected(
        "test_events.TestCGetEventLoop.test_get_running_loop_already_running",
        NEWER,
        STOCK,
        ("3.13",),
    ),
    Expected(
        "test_events.TestPyGetEventLoop.test_get_running_loop_already_running",
        NEWER,
        STOCK,
        ("3.13",),
    ),
    *(
        Expected(test, NEWER_C, lanes=BOTH_3_14)
        for test in (
            "test_futures.CFutureTests.test_futureiter_send_after_close_no_crash",
            "test_futures.CFutureTests.test_futureiter_send_after_throw_no_crash",
            "test_futures.CSubFutureTests.test_futureiter_send_after_close_no_crash",
            "test_futures.CSubFutureTests.test_futureiter_send_after_throw_no_crash",
            "test_tasks.CTaskSubclass_PyFuture_Tests.test_eager_start_true_no_loop",
            "test_tasks.CTask_CFuture_SubclassTests.test_eager_start_true_no_loop",
            "test_tasks.CTask_CFuture_Tests.test_eager_start_true_no_loop",
            "test_tasks.CTask_CFuture_Tests.test_get_context_uninitialized_segfault",
            "test_tasks.CTask_CFuture_Tests.test_task_created_during_thread_state_clear",
            "test_tasks.CTask_PyFuture_Tests.test_eager_start_true_no_loop",
        )
    ),
    Expected(
        "test_sock_lowlevel.ProactorEventLoopTests.test_recvfrom_into_wrong_size",
        NEWER_C,
        STOCK,
        BOTH_3_14,
    ),
    *(
        Expected(
            f"test_free_threading.{tests}.test_all_tasks_from_other_thread_includes_eager_tasks",
            NEWER_C,
            lanes=("3.14t",),
        )
        for tests in ("TestCFreeThreading", "TestEagerCFreeThreading")
    ),
    # -- asyncio
    Expected(
        "test_sendfile.ProactorEventLoopTests.test_sendfile_close_peer_in_the_middle_of_receiving",
        "TransmitFile does not move the file's position; later tests do not ask for that",
        STOCK,
        ("3.11",),
    ),
    Expected("test_ssl.TestSSL.test_start_tls_client_corrupted_ssl", EOF_AFTER_ERROR, STOCK),
    *(
        Expected(f"test_ssl.TestSSL.{test}", NO_SSL_PROTOCOL, OURS)
        for test in ("test_flush_before_shutdown", "test_remote_shutdown_receives_trailing_data")
    ),
    Expected(
        "test_sslproto.ProactorStartTLSTests.test_create_connection_ssl_failed_certificate_no_cycles",
        "the test waits for an SSLProtocol, and ours has none: a test of its own looks for cycles",
        OURS,
        BOTH_3_14,
    ),
    Expected(
        "test_sslproto.ProactorStartTLSTests.test_start_tls_client_corrupted_ssl",
        EOF_AFTER_ERROR,
        STOCK,
    ),
    Expected(
        "test_streams.StreamTests.test_open_connection_happy_eyeball_refcycles",
        "the future of the refused connect may live a moment longer, and has its exception",
        lanes=SINCE_3_13,
        sometimes=True,
    ),
    Expected(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data", SHUT_WITH_NOTIFY, STOCK
    ),
    Expected(
        "test_ssl.TestSSL.test_shutdown_timeout_after_eof_from_not_reading_peer",
        "on asyncio's transport the connection ends without an error before the timeout; ours keeps"
        " to it",
        STOCK,
        BOTH_3_14,
    ),
    Expected(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        "the test looks into a selector's transport (_read_ready_cb), which a proactor's is not",
        lanes=SINCE_3_13,
    ),
    # -- winloop's suite
    *uvloop(
        "test_context.Test_UV_Context",
        ["test_create_ssl_server_connection_protocol", "test_datagram_protocol"],
        CONTEXT,
        STOCK,
    ),
    *uvloop("test_context.Test_UV_Context", ["test_create_connection_protocol"], CONTEXT, OURS),
    *uvloop(
        "test_context.Test_UV_Context",
        ["test_create_server_manual_connection_lost"],
        CONTEXT,
        STOCK,
    ),
    *uvloop(
        "test_context.Test_UV_Context", ["test_create_connection_protocol"], SENT_AT_ONCE, STOCK
    ),
    *uvloop(
        "test_context.Test_UV_Context",
        ["test_create_ssl_server_manual_connection_lost"],
        SSL_AFTER_CLOSE,
    ),
    *uvloop(UVLOOPS_TLS, ["test_bpo_39951_discard_trailing_data"], SSL_AFTER_CLOSE, STOCK),
    *uvloop(
        UVLOOPS_TLS,
        ["test_shutdown_timeout_handler_not_set", "test_shutdown_while_pause_reading"],
        SSL_EOF,
    ),
    *uvloop(
        UVLOOPS_TLS,
        ["test_first_data_after_wakeup"],
        "asyncio's SSLProtocol delivers the first data before start_tls() has returned",
        STOCK,
    ),
    *uvloop(
        UVLOOPS_TLS,
        ["test_write_to_closed_transport"],
        "our transport counts its close_notify, which leaves at the end of the loop's step",
        OURS,
    ),
    *uvloop(UVLOOPS_TLS, ["test_start_tls_client_buf_proto_1"], NO_BUFFERED_PROTOCOL),
    *uvloop(
        "test_tcp.Test_UV_TCP",
        ["test_create_server_buffered_1", "test_create_server_buffered_2"],
        NO_BUFFERED_PROTOCOL,
    ),
    # Now and then the end of the stream comes too late for that.
    *uvloop(
        UVLOOPS_TLS,
        ["test_start_tls_client_corrupted_ssl"],
        EOF_AFTER_ERROR,
        STOCK,
        sometimes=True,
    ),
    *uvloop(
        UVLOOPS_TLS,
        ["test_remote_shutdown_receives_trailing_data"],
        SHUT_WITH_NOTIFY,
        STOCK,
    ),
    # What winloop's port of them does otherwise, or leaves out.
    Expected(
        f"{UVLOOPS_TLS}.test_flush_before_shutdown",
        "the test pauses the SSLProtocol that uvloop's transport refers to, and others' do not",
        suite="uvloop",
    ),
    Expected(
        f"{UVLOOPS_TLS}.test_shutdown_timeout",
        "the test closes a socket by os.close(), which on Windows is for files",
        suite="uvloop",
    ),
    Expected(
        f"{UVLOOPS_TLS}.test_remote_shutdown_receives_trailing_data",
        "the test calls _test__append_write_backlog(), which uvloop's transport has for it",
        OURS,
        suite="uvloop",
    ),
    *uvloop(
        "test_tcp.Test_UV_TCP", ["test_create_connection_4", "test_create_server_4"], NO_MESSAGES
    ),
    *uvloop("test_tcp.Test_UV_TCP", ["test_flowcontrol_mixin_set_write_limits"], SENT_AT_ONCE),
    *uvloop(
        "test_tcp.Test_UV_TCP",
        ["test_tcp_handle_abort_in_connection_made"],
        "asyncio keeps the socket of an aborted transport in get_extra_info(), as the test says",
    ),
    *uvloop("test_tcp.Test_UV_TCP", ["test_transport_get_extra_info"], NO_READERS, STOCK),
    *uvloop(
        "test_tcp.Test_UV_TCP",
        ["test_transport_get_extra_info"],
        "the test reads an attribute that is not public, _paused",
        OURS,
    ),
    *uvloop(
        "test_tcp.Test_UV_TCP",
        ["test_many_small_writes"],
        "the test sends 2 GB, for which asyncio's loop may need more than a minute here",
        STOCK,
        sometimes=True,
    ),
    *uvloop(
        "test_tcp.Test_UV_TCP",
        ["test_resume_writing_write_different_transport"],
        "asyncio's transport resumes a protocol when nothing is left, and the test writes on",
        STOCK,
    ),
    *uvloop(
        "test_udp.Test_UV_UDP",
        [
            "test_create_datagram_endpoint_reuse_address_error",
            "test_create_datagram_endpoint_reuse_address_warning",
        ],
        "asyncio has had no parameter reuse_address since Python 3.11",
    ),
    *uvloop(
        "test_udp.Test_UV_UDP",
        ["test_create_datagram_endpoint_wrong_sock"],
        "the text of asyncio's error is another",
    ),
    *uvloop(
        "test_udp.Test_UV_UDP",
        ["test_udp_sendto_dns"],
        "asyncio's sendto() takes a name, and lets the system look it up",
    ),
    *uvloop(
        "test_sockets.TestUVSockets",
        [
            "test_add_reader_or_writer_transport_fd",
            "test_socket_close_many_add_readers",
            "test_socket_close_many_remove_writers",
            "test_socket_close_remove_reader",
            "test_socket_close_remove_writer",
            "test_socket_fileno",
            "test_socket_sync_remove_and_immediately_close",
        ],
        NO_READERS,
        STOCK,
    ),
    *uvloop(
        "test_sockets.TestUVSockets",
        [
            "test_socket_cancel_sock_recv_2",
            "test_socket_close_loop_and_close",
            "test_socket_recv_and_close",
            "test_socket_recv_into_and_close",
        ],
        OPEN_WHILE_USED,
    ),
    *uvloop(
        "test_sockets.TestUVSockets",
        ["test_socket_send_and_close"],
        "Windows does not let the duplicate of a socket on a completion port join it again",
    ),
    *uvloop(
        "test_sockets.TestUVSockets",
        ["test_sock_send_before_cancel"],
        "the receive that is cancelled has its byte already, as the test says of the proactor",
    ),
    *uvloop(
        "test_sockets.TestUVSockets",
        ["test_socket_blocking_error"],
        "a proactor takes blocking sockets, so asyncio's does not look for them in debug mode",
    ),
    *uvloop(
        "test_signals.Test_UV_Signals",
        [
            "test_signals_sigint_pycode_continue",
            "test_signals_sigint_pycode_stop",
            "test_signals_sigint_uvcode",
            "test_signals_sigint_uvcode_two_loop_runs",
        ],
        NO_SIGINT,
    ),
    *uvloop(
        "test_signals.Test_UV_Signals",
        ["test_signals_coro_callback", "test_signals_fork_in_thread"],
        NO_SIGNAL_HANDLERS,
    ),
    *uvloop(
        "test_process.Test_UV_Process",
        ["test_process_double_close"],
        "the test is about the pipe that winloop makes when it is imported",
    ),
    *uvloop(
        "test_process.Test_UV_Process",
        ["test_process_startupinfo_unsupported_flags"],
        "libuv refuses STARTF_USESTDHANDLES, Popen takes it",
    ),
    *uvloop(
        "test_process.Test_UV_Process",
        ["test_windows_issue_153"],
        "there is no `python` on Wine's PATH",
    ),
    *uvloop(
        "test_process.Test_UV_Process",
        ["test_windows_issue_153_bytes"],
        "Popen takes no command of bytes on Windows",
    ),
    *uvloop(
        "test_process.Test_UV_Process_Delayed",
        [
            "test_process_delayed_stdio__paused__no_stdin",
            "test_process_delayed_stdio__paused__stdin_pipe",
        ],
        "only uvloop has the parameter __uvloop_sleep_after_fork",
    ),
    *uvloop(
        "test_process.Test_UV_Process_Delayed",
        ["test_process_delayed_stdio__not_paused__no_stdin"],
        "Wine's cmd writes the line and its end apart, which may come as two",
        sometimes=True,
    ),
    *uvloop(
        "test_process.TestAsyncio_UV_Process",
        ["test_communicate_large_stdout_1000000"],
        "a program writes a million single characters, for which Wine may need more than a minute",
        sometimes=True,
    ),
]
