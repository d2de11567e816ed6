"""A TCP relay that counts: what a benchmark sends through it is what the wire carries, framing and all."""

import socket
import threading
from types import TracebackType
from typing import Self


class CountingRelay:
    """Listens on loopback and passes bytes to `target` ("host:port") and back. Close it.

    Attributes:
      address: where it listens.
      num_bytes: passed on so far, both ways.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_bytes = 0
        self._lock = threading.Lock()  # guards num_bytes and _open
        self._open = list[socket.socket]()
        self._threads = [threading.Thread(target=self._accept, name="relay-accept")]
        self._threads[0].start()

    def close(self) -> None:
        """Cuts all connections and joins all threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            ends = list(self._open)
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:  # the peer was faster
                continue
        for thread in self._threads:
            thread.join()
        for end in ends:
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None):
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(self._target)
            with self._lock:
                self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink), name="relay-pump")
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 20):
                sink.sendall(data)
                with self._lock:
                    self.num_bytes += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side has gone; the other sees the end of its stream
            return
