"""The threads that a server needs, in a program that has replaced threads or queues."""

# As greenlets do it: what a thread is to run runs in the thread that starts it, and no queue wakes
# another thread. In processes of their own, since a server that goes on here waits for ever.
REPLACEMENTS = """
import _thread, queue, threading
import iocpx

class InPlace(threading.Thread):
    def start(self):
        self.run()
    def join(self, timeout=None):
        pass

def start_in_place(function, arguments):
    function(*arguments)

class OneThread:
    def __init__(self):
        self.items = []
    def put(self, item):
        self.items.append((threading.get_ident(), item))
    def get(self):
        forever = threading.Event()
        if not self.items or self.items[0][0] != threading.get_ident():
            forever.wait()
        return self.items.pop(0)[1]

server = iocpx.Server(iocpx.native.Echo, "127.0.0.1")
originals = threading.Thread, _thread.start_new_thread
"""


def test_start_says_that_threads_are_no_threads_of_the_system(start_script):
    script = start_script(
        REPLACEMENTS
        + """
threading.Thread, _thread.start_new_thread = InPlace, start_in_place
try:
    server.start()
except RuntimeError as error:
    print(error)
print(server.is_serving(), server.wait_closed(0), server.sockets)
threading.Thread, _thread.start_new_thread = originals
with server:
    print(server.is_serving())
"""
    )
    assert "Python's threads have been replaced" in script.read_line()
    assert script.finish() == (0, ["False True ()", "True"], "")


def test_a_queue_that_knows_one_thread_only_does_not_matter(start_script):
    script = start_script(
        REPLACEMENTS
        + """
queue.SimpleQueue = queue.Queue = queue.LifoQueue = OneThread
with server:
    print(server.is_serving())
"""
    )
    assert script.finish() == (0, ["True"], "")
