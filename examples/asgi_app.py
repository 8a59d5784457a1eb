"""An ASGI application for the servers beside it; it needs no framework.

GET says which loop and which process answers, POST sends the body back, and so does a WebSocket.
With uvicorn:

    uvicorn --loop iocpx:new_event_loop [--workers 2] [--ssl-certfile FILE.pem] asgi_app:app
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def app(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    message: Message = {"type": None}
    while message["type"] != "lifespan.shutdown":
        message = await receive()
        await send({"type": message["type"] + ".complete"})


async def http(scope: Message, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["method"] == "GET":
        loop = type(asyncio.get_running_loop())
        body = f"{loop.__module__}.{loop.__name__} in process {os.getpid()}".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def websocket(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            data = {key: message.get(key) for key in ("text", "bytes") if message.get(key)}
            await send({"type": "websocket.send", **data})
