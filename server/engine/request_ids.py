"""An answer bears the id that its request came with, so that a client finds it in the logs of all it went through."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from server.direct_stream import RAW_SEND, App

HEADER = b"x-request-id"
MAX_ID_BYTES = 100


class RequestIdsApp(App):
    """Gives the `x-request-id` of a request back in the head of its answer, whatever the answer is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = next((value for name, value in scope.get("headers", ()) if name == HEADER), b"")[:MAX_ID_BYTES]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start" and request_id:
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
            await send(message)

        await super().__call__({**scope, RAW_SEND: send}, receive, send_with_id)
