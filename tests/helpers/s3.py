"""A real S3 server of this process, on a free port: moto's, one request at a time.

Moto's own server checks `If-None-Match` and writes in two steps, between which another request can come; S3 does not.
"""

import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def serve(*, keeps_what_is_there: bool = True) -> Generator[str]:
    """The server's URL; without `keeps_what_is_there` one that takes every put for a plain one."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # werkzeug's name
            pass

    application, one_at_a_time = DomainDispatcherApplication(cast(Any, create_backend_app)), threading.Lock()

    def answer(environ: Any, start_response: Any) -> list[bytes]:
        if not keeps_what_is_there:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with one_at_a_time:
            return list(cast(Iterable[bytes], application(environ, start_response)))

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
