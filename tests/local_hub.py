"""A server of our own that imitates the Hugging Face hub, for tests of downloads."""

import http.server

import huggingface_hub


class Hub(http.server.ThreadingHTTPServer):
    """Serves one body under any path, with ranges; can break off, or keep silent."""

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.body, self.requests, self.break_after = body, [], None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class HubHandler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send: bool):
        asked = self.headers.get("Range")
        self.server.requests.append((self.command, self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        body = self.server.body[start:]
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", '"b"')
        self.send_header("Content-Length", str(len(body)))
        if asked:
            total = len(self.server.body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if send and self.server.break_after:
            body, self.server.break_after = body[: self.server.break_after], None
            self.close_connection = True
        if send:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def go_online(monkeypatch, endpoint):
    """Let the hub's client talk to an endpoint, in spite of the tests' offline mode."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
