"""A server on this machine that fails in the ways that networks do, and a disk that is full."""

import contextlib
import http.server
import re
import resource
import threading


class FileServer:
    """Sends ``content`` at any path.

    Attributes:
        url: of the file.
        content: what it sends.
        headers: of the answer, besides those of its length.
        status: what it refuses with.
        ranges: whether it can send a part.
        if_range: whether it heeds If-Range.
        shift: how many bytes too late its parts begin, as Content-Range says.
        chunked: whether it does not say how much there is.
        cut_after: after how many bytes it closes the connection.
        stall_after: after how many bytes nothing comes any more.
        requests: the Range of each request, or None.
        sent: the Content-Length of each answer.
    """

    def __init__(self, content):
        self.content = content
        self.headers = {"ETag": '"a1"'}
        self.status = self.cut_after = self.stall_after = None
        self.ranges = self.if_range = True
        self.chunked = False
        self.shift = 0
        self.requests, self.sent = [], []
        self._released = threading.Event()

    def __enter__(self):
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                owner._answer(self)

            def do_CONNECT(self):
                self.send_error(owner.status)

            def log_message(self, *arguments):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/file.zip"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.stop()

    def stop(self):
        """Refuses connections from now on."""
        self._released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _answer(self, request):
        request.close_connection = True
        asked = request.headers.get("Range")
        self.requests.append(asked)
        if self.status is not None:
            request.send_error(self.status)
            return
        condition = request.headers.get("If-Range")
        start = 0
        if asked and self.ranges and (not self.if_range or condition in self.headers.values()):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) + self.shift
            if start >= len(self.content):
                request.send_error(416)
                return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        for name, value in self.headers.items():
            request.send_header(name, value)
        if start:
            last, size = len(self.content) - 1, len(self.content)
            request.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        if self.chunked:
            request.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        else:
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        self.sent.append(len(body))
        if self.stall_after is not None:
            self._write(request, body[: self.stall_after])
            self._released.wait(2)
        else:
            self._write(request, body[: self.cut_after])

    def _write(self, request, body):
        with contextlib.suppress(OSError):  # whoever asked may have gone
            request.wfile.write(body)


@contextlib.contextmanager
def full_disk(room):
    """Lets no file grow beyond so many bytes, as on a disk without more room."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
