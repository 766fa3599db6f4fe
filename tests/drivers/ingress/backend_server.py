"""A small HTTP/1.1 server for ingress tests: `python backend_server.py ADDRESS PORT VERSION`; ends at SIGTERM."""

import asyncio
import hashlib
import json
import sys


async def answer(reader, writer, version):
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            line, _, rest = head.partition("\r\n")
            headers = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in rest.split("\r\n")) if k}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            if "slow" in line:
                await asyncio.sleep(0.5)
            value = {"version": version, "digest": hashlib.sha256(body).hexdigest(), "line": line, "headers": headers}
            data = json.dumps(value).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    address, port, version = sys.argv[1:4]
    server = await asyncio.start_server(lambda r, w: answer(r, w, version), address, int(port), backlog=512)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
