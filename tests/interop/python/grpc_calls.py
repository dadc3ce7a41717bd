"""gRPC through a sidecar, as grpcio speaks it: messages are plain bytes.

    grpc_calls.py serve                                   serves h2c, and prints its port
    grpc_calls.py call SIDECAR SVID KEY BUNDLE            every kind of call
    grpc_calls.py refused SIDECAR SVID KEY BUNDLE CODE    a call that ends with this code
"""

import asyncio
import collections
import concurrent.futures
import sys
import time
import uuid

import grpc
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

SERVICE = "wayleave.tests.Echo"
MIB = 1024 * 1024
OPTIONS = [
    ("grpc.max_receive_message_length", 64 * MIB),
    ("grpc.max_send_message_length", 64 * MIB),
]
LIFETIME = 300
PATIENCE = 20
AWKWARD = "caf\u00e9 100%\nnext"


# The server.


class Echo:
    def __init__(self) -> None:
        self.begun: collections.Counter = collections.Counter()
        self.cancelled: collections.Counter = collections.Counter()
        self.health = health.aio.HealthServicer()

    async def unary(self, request: bytes, context) -> bytes:
        return request

    async def collect(self, requests, context) -> bytes:
        return b"".join([request async for request in requests])

    async def repeat(self, request: bytes, context):
        for number in range(int(request)):
            yield b"%d" % number

    async def chat(self, requests, context):
        async for request in requests:
            yield request

    async def remaining(self, request: bytes, context) -> bytes:
        """How long the caller is willing to wait, in milliseconds."""
        remaining = context.time_remaining()
        return b"none" if remaining is None else b"%d" % (remaining * 1000)

    async def hang(self, request: bytes, context) -> bytes:
        """Until the caller gives up; `ended` tells that it has."""
        self.begun[request] += 1
        try:
            await asyncio.sleep(LIFETIME)
        except asyncio.CancelledError:
            self.cancelled[request] += 1
            raise
        return b""

    async def drip(self, request: bytes, context):
        try:
            while True:
                yield b"drop"
                await asyncio.sleep(0.01)
        finally:
            self.cancelled[request] += 1

    async def started(self, request: bytes, context) -> bytes:
        return b"%d" % self.begun[request]

    async def ended(self, request: bytes, context) -> bytes:
        return b"%d" % self.cancelled[request]

    async def fail(self, request: bytes, context) -> bytes:
        code = next(code for code in grpc.StatusCode if code.name.encode() == request)
        await context.abort(code, AWKWARD, (("x-reason", "asked"), ("x-raw-bin", b"\0\xff")))

    async def fail_late(self, request: bytes, context):
        yield b"first"
        await context.abort(grpc.StatusCode.DATA_LOSS, AWKWARD)

    async def explain(self, request: bytes, context) -> bytes:
        detail = Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason="ASKED", domain="tests"))
        status = status_pb2.Status(code=9, message="explained", details=[detail])
        await context.abort_with_status(rpc_status.to_status(status))

    async def metadata(self, request: bytes, context) -> bytes:
        received = dict(context.invocation_metadata())
        await context.send_initial_metadata((("x-first", received["x-text"]),))
        context.set_trailing_metadata((("x-last-bin", received["x-raw-bin"]),))
        return received["x-forwarded-client-cert"].encode()

    async def set_health(self, request: bytes, context) -> bytes:
        await self.health.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(request.decode()))
        return b""

    def handlers(self) -> dict:
        unary = grpc.unary_unary_rpc_method_handler
        return {
            "Unary": unary(self.unary),
            "Collect": grpc.stream_unary_rpc_method_handler(self.collect),
            "Repeat": grpc.unary_stream_rpc_method_handler(self.repeat),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Remaining": unary(self.remaining),
            "Hang": unary(self.hang),
            "Drip": grpc.unary_stream_rpc_method_handler(self.drip),
            "Begun": unary(self.started),
            "Ended": unary(self.ended),
            "Fail": unary(self.fail),
            "FailLate": grpc.unary_stream_rpc_method_handler(self.fail_late),
            "Explain": unary(self.explain),
            "Metadata": unary(self.metadata),
            "SetHealth": unary(self.set_health),
        }


async def serve() -> None:
    echo = Echo()
    server = grpc.aio.server(options=OPTIONS)
    handlers = grpc.method_handlers_generic_handler(SERVICE, echo.handlers())
    server.add_generic_rpc_handlers((handlers,))
    health_pb2_grpc.add_HealthServicer_to_server(echo.health, server)
    await echo.health.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination(LIFETIME)


# The client.


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def dial(sidecar: str, svid: str, key: str, bundle: str, **more) -> grpc.Channel:
    papers = grpc.ssl_channel_credentials(read(bundle), read(key), read(svid))
    return grpc.secure_channel(f"localhost:{sidecar}", papers, options=OPTIONS, **more)


class Client:
    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def unary(self, method: str, service: str = SERVICE):
        return self.channel.unary_unary(f"/{service}/{method}")

    def __call__(self, method: str, request: bytes = b"", **more) -> bytes:
        return self.unary(method)(request, timeout=PATIENCE, **more)

    def repeat(self, method: str):
        return self.channel.unary_stream(f"/{SERVICE}/{method}")

    def collect(self):
        return self.channel.stream_unary(f"/{SERVICE}/Collect")

    def chat(self):
        return self.channel.stream_stream(f"/{SERVICE}/Chat")


def failure(call) -> grpc.RpcError:
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def same(found, expected) -> None:
    assert found == expected, f"{found!r:.200} is not {expected!r:.200}"


def eventually(what: str, holds) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def unary(client: Client) -> None:
    for message in (b"", b"hello", bytes(range(256)) * 64):
        same(client("Unary", message), message)


def client_streaming(client: Client) -> None:
    parts = [b"%d," % number for number in range(500)]
    same(client.collect()(iter(parts), timeout=PATIENCE), b"".join(parts))
    same(client.collect()(iter(()), timeout=PATIENCE), b"")


def server_streaming(client: Client) -> None:
    answers = list(client.repeat("Repeat")(b"500", timeout=PATIENCE))
    same(answers, [b"%d" % number for number in range(500)])
    same(list(client.repeat("Repeat")(b"0", timeout=PATIENCE)), [])


def bidirectional(client: Client) -> None:
    """Each message is sent when the answer to the one before has come."""
    turn = concurrent.futures.Future()
    turn.set_result(0)
    turns = [turn] + [concurrent.futures.Future() for _ in range(100)]

    def ask():
        for number, before in enumerate(turns):
            before.result(PATIENCE)
            yield b"%d" % number

    answers = client.chat()(ask(), timeout=PATIENCE)
    for number, answer in enumerate(answers):
        same(answer, b"%d" % number)
        if number + 1 < len(turns):
            turns[number + 1].set_result(0)
    same(number + 1, len(turns))


def deadline_reaches_the_server(client: Client) -> None:
    remaining = int(client.unary("Remaining")(b"", timeout=7.5))
    assert 5000 < remaining < 8000, remaining
    same(client.unary("Remaining")(b""), b"none")


def deadline_exceeded(client: Client) -> None:
    name = uuid.uuid4().bytes
    error = failure(lambda: client.unary("Hang")(name, timeout=0.3))
    same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    eventually("the server goes on", lambda: client("Ended", name) == b"1")


def cancellation_reaches_the_server(client: Client) -> None:
    name = uuid.uuid4().bytes
    call = client.unary("Hang").future(name)
    eventually("it does not begin", lambda: client("Begun", name) == b"1")
    call.cancel()
    eventually("the server goes on", lambda: client("Ended", name) == b"1")
    name = uuid.uuid4().bytes
    stream = client.repeat("Drip")(name)
    same(next(stream), b"drop")
    stream.cancel()
    same(failure(lambda: next(stream)).code(), grpc.StatusCode.CANCELLED)
    eventually("the server goes on", lambda: client("Ended", name) == b"1")


def statuses(client: Client) -> None:
    for code in grpc.StatusCode:
        if code is grpc.StatusCode.OK:
            continue
        error = failure(lambda: client("Fail", code.name.encode()))
        same((error.code(), error.details()), (code, AWKWARD))
        trailing = dict(error.trailing_metadata())
        same((trailing["x-reason"], trailing["x-raw-bin"]), ("asked", b"\0\xff"))
    answers = client.repeat("FailLate")(b"", timeout=PATIENCE)
    same(next(answers), b"first")
    error = failure(lambda: next(answers))
    same((error.code(), error.details()), (grpc.StatusCode.DATA_LOSS, AWKWARD))


def status_details(client: Client) -> None:
    status = rpc_status.from_call(failure(lambda: client("Explain")))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    same((status.code, status.message, info.reason), (9, "explained", "ASKED"))


def metadata(client: Client) -> None:
    raw = bytes(range(256))
    sent = (
        ("x-text", "some text"),
        ("x-raw-bin", raw),
        ("x-forwarded-client-cert", "URI=spiffe://conformance.example/admin"),
    )
    answer, call = client.unary("Metadata").with_call(b"", metadata=sent, timeout=PATIENCE)
    same(dict(call.initial_metadata())["x-first"], "some text")
    same(dict(call.trailing_metadata())["x-last-bin"], raw)
    assert answer.endswith(b"URI=spiffe://conformance.example/ns/default/sa/caller"), answer
    assert b"admin" not in answer, answer


def large_messages(client: Client) -> None:
    message = bytes(range(256)) * 4096 * 16
    same(client("Unary", message), message)
    parts = [message[: 2 * MIB]] * 8
    same(list(client.chat()(iter(parts), timeout=PATIENCE)), parts)


def many_streams(client: Client) -> None:
    """More at once than the sidecar admits on a connection, on one connection."""
    calls = [client.unary("Unary").future(b"%d" % n, timeout=PATIENCE) for n in range(1000)]
    for number, call in enumerate(calls):
        same(call.result(), b"%d" % number)
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        parts = [[b"%d" % (n * m) for m in range(50)] for n in range(64)]
        chats = [pool.submit(lambda p=p: list(client.chat()(iter(p), timeout=PATIENCE))) for p in parts]
        same([chat.result() for chat in chats], parts)


def denied(client: Client) -> None:
    for call in (
        lambda: client.unary("Unary", "forbidden.Echo")(b"hello", timeout=PATIENCE),
        lambda: client.channel.stream_unary("/forbidden.Echo/Collect")(
            iter([b"x" * MIB] * 4), timeout=PATIENCE
        ),
        lambda: list(client.channel.unary_stream("/forbidden.Echo/Repeat")(b"", timeout=PATIENCE)),
    ):
        error = failure(call)
        same(error.code(), grpc.StatusCode.PERMISSION_DENIED)
        assert "decision" in error.details(), error.details()


def unimplemented(client: Client) -> None:
    error = failure(lambda: client("NoSuchMethod"))
    same(error.code(), grpc.StatusCode.UNIMPLEMENTED)


def health_checks(client: Client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    everything = health_pb2.HealthCheckRequest()
    same(stub.Check(everything, timeout=PATIENCE).status, 1)
    unknown = health_pb2.HealthCheckRequest(service="unknown")
    error = failure(lambda: stub.Check(unknown, timeout=PATIENCE))
    same(error.code(), grpc.StatusCode.NOT_FOUND)
    watch = stub.Watch(everything, timeout=PATIENCE)
    same(next(watch).status, 1)
    client("SetHealth", b"NOT_SERVING")
    same(next(watch).status, 2)
    client("SetHealth", b"SERVING")
    same(next(watch).status, 1)
    watch.cancel()


CALLS = [
    unary,
    client_streaming,
    server_streaming,
    bidirectional,
    deadline_reaches_the_server,
    deadline_exceeded,
    cancellation_reaches_the_server,
    statuses,
    status_details,
    metadata,
    large_messages,
    many_streams,
    denied,
    unimplemented,
    health_checks,
]


def call(*papers: str) -> None:
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        with dial(*papers, compression=compression) as channel:
            for check in CALLS:
                began = time.monotonic()
                check(Client(channel))
                if compression is grpc.Compression.NoCompression:
                    print(f"grpc: {check.__name__}, {time.monotonic() - began:.1f} s", flush=True)
    print(f"grpc: {len(CALLS)} checks, and once more with gzip")


def refused(*arguments: str) -> None:
    *papers, code = arguments
    with dial(*papers) as channel:
        error = failure(lambda: Client(channel)("Unary", b"hello"))
    same(error.code().name, code)
    print(f"grpc: {code}: {error.details()}")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["serve"]:
            asyncio.run(serve())
        case ["call", *papers] if len(papers) == 4:
            call(*papers)
        case ["refused", *rest] if len(rest) == 5:
            refused(*rest)
        case _:
            sys.exit(__doc__)


main(sys.argv[1:])
