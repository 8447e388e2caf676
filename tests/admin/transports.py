"""Servers without a network: they answer as those on one do, whose answers are still to be read."""

from __future__ import annotations

import httpx


class Answering(httpx.MockTransport):
    """Answers by a function."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Return its answer, unread."""
        answer = super().handle_request(request)
        if not answer.is_stream_consumed:
            return answer
        return httpx.Response(answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content))
