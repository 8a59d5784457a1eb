"""Which of other people's tests of asyncio fail in the lab, on which loop and lane, and why.

`dev.py conformance` fails when another one does, and when one of these passes.
"""

from dataclasses import dataclass

EVERY_LANE = ("3.11", "3.13", "3.14", "3.14t")
EMBEDDED = ("3.11", "3.13")
BOTH_3_14 = ("3.14", "3.14t")
BOTH = ("stock", "iocpx")
STOCK = ("stock",)


@dataclass(frozen=True)
class Expected:
    test: str  # MODULE.CLASS.METHOD
    reason: str
    loops: tuple = BOTH
    lanes: tuple = EVERY_LANE
    suite: str = "cpython"
    sometimes: bool = False  # it may pass as well


NO_ASSERTS = "python.org's embedded library is compiled without assert statements"
UNREACHABLE = (
    "Wine 8 does not tell a UDP socket that nobody listens where it has sent to, and the test waits"
    " for that"
)
EOF_AFTER_ERROR = (
    "asyncio's transport tells an end of stream that has come already after its fatal error, so"
    " that readline() returns b'' in place of raising the error"
)
NEWER = "a test of what a later 3.13 than the lane's has mended"
NEWER_C = (
    "a test of what a later 3.14 than the lane's has mended, in C; all Python code is the later's"
)

EXPECTED = [
    # -- Wine
    Expected(
        "test_sock_lowlevel.ProactorEventLoopTests"
        ".test_datagram_send_to_non_listening_address_recvfrom",
        UNREACHABLE,
    ),
    Expected(
        "test_sock_lowlevel.ProactorEventLoopTests"
        ".test_datagram_send_to_non_listening_address_recvfrom_into",
        UNREACHABLE,
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
        lanes=BOTH_3_14,
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
    # -- asyncio
    Expected("test_ssl.TestSSL.test_start_tls_client_corrupted_ssl", EOF_AFTER_ERROR, STOCK),
    Expected(
        "test_sslproto.ProactorStartTLSTests.test_start_tls_client_corrupted_ssl",
        EOF_AFTER_ERROR,
        STOCK,
    ),
    Expected(
        "test_streams.StreamTests.test_open_connection_happy_eyeball_refcycles",
        "the future of the refused connect may live a moment longer, and has its exception",
        sometimes=True,
    ),
    Expected(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data",
        "asyncio closes its transport with the close_notify in hand that it keeps back while a"
        " send of 4 MB is pending, as Wine has it until the peer reads; the transport takes nothing"
        " more, and the test waits for the close_notify",
        STOCK,
    ),
    Expected(
        "test_ssl.TestSSL.test_shutdown_timeout_after_eof_from_not_reading_peer",
        "on asyncio's transport the connection ends without an error before the timeout; why was"
        " not looked into",
        STOCK,
        BOTH_3_14,
    ),
    Expected(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        "the test looks into a selector's transport (_read_ready_cb), which a proactor's is not",
    ),
]
