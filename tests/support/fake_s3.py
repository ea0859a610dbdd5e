"""An S3 service in memory over HTTP that can be told to ignore create-only conditions, as some services do.

It knows the requests of `perturb.sinks.stores.s3.S3Store`, path style, and checks no signatures. Any bucket exists.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class FakeS3:
    """The service's state: its objects by key (bucket included), each request as `METHOD key`, and listed entries."""

    endpoint: str = ""
    keeps_conditions: bool = True
    taken_status: int = 412
    takes_checksums: bool = True
    objects: dict[str, tuple[bytes, dict[str, str], float]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    listed: int = 0


@contextmanager
def fake_s3(
    *, keeps_conditions: bool = True, taken_status: int = 412, takes_checksums: bool = True
) -> Iterator[FakeS3]:
    """Run the service; with `keeps_conditions` false every PUT replaces, whatever If-None-Match says.

    `taken_status` is the HTTP status of a refused create-only PUT: 412 on AWS, 409 on some services.
    With `takes_checksums` false a PUT with a checksum header is refused.
    """
    state = FakeS3(keeps_conditions=keeps_conditions, taken_status=taken_status, takes_checksums=takes_checksums)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _answer(
            self, status: int, body: bytes = b"", *, length: int | None = None, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def _error(self, status: int, code: str) -> None:
            body = b"" if self.command == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()
            self._answer(status, body)

        def _serve(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            place = unquote(url.path).strip("/")
            with lock:
                state.requests.append(f"{self.command} {place}")
                if "/" not in place:
                    self._list(place, parse_qs(url.query, keep_blank_values=True))
                elif self.command == "PUT":
                    self._put(place, data)
                elif self.command == "DELETE":
                    state.objects.pop(place, None)
                    self._answer(204)
                else:
                    self._get(place)

        def _put(self, place: str, data: bytes) -> None:
            if not state.takes_checksums and any(name.lower().startswith("x-amz-checksum") for name in self.headers):
                self._error(400, "InvalidArgument")
                return
            if self.headers.get("If-None-Match") and state.keeps_conditions and place in state.objects:
                self._error(state.taken_status, "PreconditionFailed")
                return
            metadata = {name: value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}
            state.objects[place] = (data, metadata, time.time())
            self._answer(200, headers={"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

        def _get(self, place: str) -> None:
            if place not in state.objects:
                self._error(404, "NoSuchKey")
                return
            data, metadata, written = state.objects[place]
            headers = metadata | {"Last-Modified": formatdate(written, usegmt=True)}
            if self.command == "HEAD":
                self._answer(200, length=len(data), headers=headers)
            elif span := self.headers.get("Range"):
                first, _, last = span.removeprefix("bytes=").partition("-")
                part = data[int(first) : int(last) + 1]
                end = int(first) + len(part) - 1
                self._answer(206, part, headers=headers | {"Content-Range": f"bytes {first}-{end}/{len(data)}"})
            else:
                self._answer(200, data, headers=headers)

        def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
            prefix = f"{bucket}/{query.get('prefix', [''])[0]}"
            after = f"{bucket}/{query.get('start-after', [''])[0]}"
            delimiter = query.get("delimiter", [""])[0]
            rows: dict[str, None] = {}
            # Uploads in parts are not kept, so that there are never unfinished ones.
            there = [] if "uploads" in query else state.objects
            for place in sorted(place for place in there if place.startswith(prefix) and place > after):
                head, found, _ = place[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if found:
                    folder = prefix.removeprefix(f"{bucket}/") + head + delimiter
                    rows[f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"] = None
                    continue
                data, _, written = state.objects[place]
                stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(written))
                key = escape(place.removeprefix(f"{bucket}/"))
                rows[
                    f"<Contents><Key>{key}</Key><LastModified>{stamp}</LastModified><Size>{len(data)}</Size></Contents>"
                ] = None
            state.listed += len(rows)
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>"
            self._answer(200, body.encode(), headers={"Content-Type": "application/xml"})

        do_GET = do_PUT = do_HEAD = do_DELETE = _serve

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
