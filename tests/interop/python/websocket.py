"""WebSocket conformance: the Autobahn cases, as the PyPI package `kosoku` runs them.

    websocket.py echo                                  serves, and prints its port
    websocket.py fuzz PORT SIDECAR SVID KEY BUNDLE     the cases against that server, directly
                                                       and through a sidecar
    websocket.py cases                                 serves the cases at two ports, prints
                                                       them, and judges
    websocket.py client PORT SIDECAR SVID KEY BUNDLE   meets the cases at one port directly,
                                                       at the other through a sidecar

A sidecar carries what it does not read: every case must have the verdict that it has without
the sidecar. Where a message and what breaks the protocol after it arrive at once, its echo may
not be sent any more, with a sidecar or without: NON-STRICT in the place of OK. Such a case is
run again; where all of them would have to be, the exit code is 3.
"""

import asyncio
import collections
import logging
import os
import ssl
import sys

from kosoku import FailureError, run_fuzzingclient, run_fuzzingserver
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

LARGEST = 64 * 1024 * 1024
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")
# Of each way to compress, the smallest of its eighteen kinds of message and no more: all of
# them take minutes.
CASES = [
    *(f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10)),
    *(f"12.{way}.1" for way in range(1, 6)),
    *(f"13.{way}.1" for way in range(1, 8)),
]
AT_LEAST = 313
LIFETIME = 300
# How often a case is run again.
AGAIN = 5
RUN_AGAIN = 3

Verdict = tuple[str, str]


async def echo() -> None:
    async def answer(socket) -> None:
        try:
            async for message in socket:
                await socket.send(message)
        except ConnectionClosed:
            pass

    # The cases break the protocol on purpose, which the server would tell at length.
    logging.getLogger("websockets").addHandler(logging.NullHandler())
    logging.getLogger("websockets").propagate = False
    async with serve(answer, "127.0.0.1", 0, max_size=LARGEST) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.sleep(LIFETIME)


def mutual_tls(svid: str, key: str, bundle: str) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=bundle)
    tls.load_cert_chain(svid, key)
    tls.set_alpn_protocols(["http/1.1"])
    return tls


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, ssl.SSLError):
        pass
    writer.close()


async def relay(port: int, tls: ssl.SSLContext) -> asyncio.Server:
    """A client certificate for clients that have none: plain bytes in, mutual TLS out."""

    async def carry(reader, writer) -> None:
        inner = await asyncio.open_connection("localhost", port, ssl=tls)
        await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))

    return await asyncio.start_server(carry, "127.0.0.1", 0)


async def verdicts(port: int, cases: list[str]) -> dict[str, Verdict]:
    url = f"ws://127.0.0.1:{port}/ws"
    try:
        return judged(await run_fuzzingclient(url, cases, concurrency=8))
    except FailureError as failure:
        return judged(failure.results)


def judged(results) -> dict[str, Verdict]:
    return {
        result.case_id: (result.behavior.value, result.behavior_close.value)
        for result in results
    }


async def fuzz(port: int, sidecar: int, tls: ssl.SSLContext) -> None:
    direct = await verdicts(port, CASES)
    async with await relay(sidecar, tls) as between:
        inbound = between.sockets[0].getsockname()[1]
        through = await verdicts(inbound, CASES)
        for _ in range(AGAIN):
            unlike = differing(direct, through)
            if not unlike or not are_of_timing(unlike, direct, through):
                break
            print("websocket: once more:", " ".join(unlike), flush=True)
            direct |= await verdicts(port, unlike)
            through |= await verdicts(inbound, unlike)
    compare("a server", direct, through)


def differing(direct: dict[str, Verdict], through: dict[str, Verdict]) -> list[str]:
    return [case for case, verdict in direct.items() if through.get(case) != verdict]


def are_of_timing(
    unlike: list[str], direct: dict[str, Verdict], through: dict[str, Verdict]
) -> bool:
    """Whether verdicts differ by no more than an echo that was not sent in time."""
    pairs = ((direct[case], through.get(case)) for case in unlike)
    return all(
        other and one[1] == other[1] and {one[0], other[0]} <= {"OK", "NON-STRICT"}
        for one, other in pairs
    )


def compare(peer: str, direct: dict[str, Verdict], through: dict[str, Verdict]) -> None:
    counts = collections.Counter(behavior for behavior, _ in through.values())
    print(
        f"websocket: {len(through)} cases against {peer}:",
        ", ".join(f"{count} {name}" for name, count in counts.most_common()),
        flush=True,
    )
    failing = [case for case, (verdict, _) in direct.items() if verdict not in PASSED]
    if failing:
        print("websocket: without the sidecar too:", " ".join(failing), flush=True)
    unlike = differing(direct, through)
    for case in unlike:
        print(
            f"websocket: {case}: {direct[case]} directly, {through.get(case)} through the sidecar",
            flush=True,
        )
    if len(through) < AT_LEAST:
        sys.exit(f"no more than {len(through)} cases")
    if unlike:
        sys.exit(RUN_AGAIN if are_of_timing(unlike, direct, through) else 1)


async def cases() -> None:
    async with run_fuzzingserver(CASES, port=0) as one, run_fuzzingserver(CASES, port=0) as other:
        print(one.port, other.port, flush=True)
        direct, through = await asyncio.gather(results(one), results(other))
    compare("a client", direct, through)


async def results(server) -> dict[str, Verdict]:
    try:
        return judged(await server.get_result())
    except FailureError as failure:
        return judged(failure.results)


async def client(direct: int, sidecar: int, tls: ssl.SSLContext) -> None:
    await meet(f"ws://127.0.0.1:{direct}", None)
    await meet(f"wss://localhost:{sidecar}", tls)


async def meet(server: str, tls: ssl.SSLContext | None) -> None:
    """Echoes what each case sends, as Autobahn asks a client to do."""

    def reach(path: str):
        return connect(server + path, ssl=tls, max_size=LARGEST)

    async with reach("/getCaseCount") as socket:
        count = int(await socket.recv())
    limit = asyncio.Semaphore(8)

    async def run(number: int) -> None:
        async with limit:
            try:
                async with reach(f"/runCase?case={number}&agent=websockets") as socket:
                    async for message in socket:
                        await socket.send(message)
            except (ConnectionClosed, InvalidHandshake):
                pass

    await asyncio.gather(*(run(number) for number in range(1, count + 1)))
    async with reach("/updateReports?agent=websockets") as socket:
        await socket.wait_closed()


def main(arguments: list[str]) -> None:
    match arguments:
        case ["echo"]:
            asyncio.run(echo())
        case ["fuzz", port, sidecar, *papers]:
            asyncio.run(fuzz(int(port), int(sidecar), mutual_tls(*papers)))
        case ["cases"]:
            asyncio.run(cases())
        case ["client", port, sidecar, *papers]:
            asyncio.run(client(int(port), int(sidecar), mutual_tls(*papers)))
        case _:
            sys.exit(__doc__)


status = 0
try:
    main(sys.argv[1:])
except SystemExit as ended:
    if isinstance(ended.code, str):
        print(ended.code, file=sys.stderr)
    status = ended.code if isinstance(ended.code, int) else 1
# At once: threads of the package that outlive the interpreter abort it now and then.
sys.stdout.flush()
sys.stderr.flush()
os._exit(status)
