"""Memory of the proxy per open stream: opens streams, holds them after their third token, and reads the proxy's RSS.

Against a running `weir quickstart`, with its names in the environment, and the proxy's pid in WEIR_STATE_DIR/serve.pid
(or by --pid):

    scripts/with-quickstart python3 loadtest/rss.py --streams 2000 --limit-kib 60

Idle is the RSS after one finished request and before the first held stream. Standard library only. Exit status: 0
within the limit, 1 above it or not measured.
"""

import argparse
import asyncio
import json
import os
import pathlib
import resource
import sys
import urllib.parse
import urllib.request

# Opening is paced: the point is what a stream costs to hold, not how a burst is accepted.
OPENING_AT_ONCE = 64
OPEN_WITHIN_S = 60
ALL_WITHIN_S = 180
SETTLE_S = 2
# Sockets beside the streams: the program's own files.
SPARE_FILES = 128


def arguments():
    parser = argparse.ArgumentParser(description="Memory of the proxy per open stream")
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--limit-kib", type=float, default=60.0)
    parser.add_argument("--pid", type=int, help="the proxy's; default: WEIR_STATE_DIR/serve.pid")
    parser.add_argument("--out", type=pathlib.Path, help="writes the figures there as JSON, too")
    return parser.parse_args()


def proxy_pid(named):
    if named:
        return named
    state = os.environ.get("WEIR_STATE_DIR") or pathlib.Path(os.environ["WEIR_CONFIG"]).parent
    return int((pathlib.Path(state) / "serve.pid").read_text())


def rss_kib(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no VmRSS: it has ended")


def open_files():
    """By its own metrics: nobody else of its user may look into the proxy's /proc."""
    with urllib.request.urlopen(os.environ["WEIR_ADMIN_URL"] + "/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("process_open_fds "):
                return int(float(line.split()[1]))
    raise RuntimeError("the metrics have no process_open_fds")


def raise_file_limit(streams):
    """Ours, and a look at the proxy's, which needs two per stream."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = streams + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(f"ulimit -Hn is {hard}; {needed} files are needed for {streams} streams")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else hard, hard))


def check_proxy_limit(pid, streams):
    soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    needed = 2 * streams + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise SystemExit(f"the proxy may open {soft} files and needs {needed}: start it under `ulimit -n {needed}`")


def request_bytes(host, number, fault):
    body = json.dumps(
        {
            "model": os.environ["WEIR_MODEL"],
            "stream": True,
            "max_tokens": 8,
            "messages": [{"role": "user", "content": f"Stream {number}: hold this, please."}],
        }
    ).encode()
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {host}",
        f"authorization: Bearer {os.environ['WEIR_API_KEY']}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *([f"x-sim-fault: {fault}"] if fault else []),
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


async def opened(base, number, fault, until):
    """A connection whose answer has begun: 200, and `until` seen in the body."""
    reader, writer = await asyncio.open_connection(base.hostname, base.port, limit=16 * 1024)
    writer.write(request_bytes(base.netloc, number, fault))
    await writer.drain()
    status = await reader.readline()
    if status.split()[1:2] != [b"200"]:
        rest = await reader.read(600)
        raise RuntimeError(f"stream {number}: {status.decode().strip()} {rest.decode(errors='replace')[-300:]}")
    async for line in reader:
        if until in line:
            return writer
    raise RuntimeError(f"stream {number} ended before {until!r}")


async def hold(base, gate, number):
    async with gate:
        return await asyncio.wait_for(opened(base, number, "stall_after=3", b'"content"'), OPEN_WITHIN_S)


async def measure(options, pid):
    base = urllib.parse.urlsplit(os.environ["WEIR_BASE_URL"])
    warm = await asyncio.wait_for(opened(base, -1, None, b"[DONE]"), OPEN_WITHIN_S)
    warm.close()
    await asyncio.sleep(SETTLE_S)
    idle = rss_kib(pid)
    gate = asyncio.Semaphore(OPENING_AT_ONCE)
    streams = await asyncio.gather(*(hold(base, gate, n) for n in range(options.streams)))
    await asyncio.sleep(SETTLE_S)
    held, files = rss_kib(pid), open_files()
    if files < 2 * options.streams:
        raise RuntimeError(f"the proxy has {files} files open: these are not {options.streams} streams and upstreams")
    for stream in streams:
        stream.close()
    await asyncio.sleep(SETTLE_S)
    return {
        "streams": options.streams,
        "idle_kib": idle,
        "held_kib": held,
        "after_kib": rss_kib(pid),
        "kib_per_stream": round((held - idle) / options.streams, 2),
        "limit_kib": options.limit_kib,
    }


async def bounded(options, pid):
    return await asyncio.wait_for(measure(options, pid), ALL_WITHIN_S)


def main():
    options = arguments()
    pid = proxy_pid(options.pid)
    raise_file_limit(options.streams)
    check_proxy_limit(pid, options.streams)
    try:
        figures = asyncio.run(bounded(options, pid))
    except (RuntimeError, OSError, asyncio.TimeoutError) as error:
        print(f"not measured: {error or 'it took too long'}", file=sys.stderr)
        return 1
    print(json.dumps(figures))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if figures["kib_per_stream"] > options.limit_kib:
        print(f"{figures['kib_per_stream']} KiB per stream is over {options.limit_kib}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
