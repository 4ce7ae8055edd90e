"""Clients that send a server one request after another."""

import http.client
import statistics
import threading
import time
from typing import Any, NamedTuple

from cluster.bench.forms import Questions


class Timed(NamedTuple):
    """The answers that clients received in one turn: seconds each took, and the number that failed."""

    seconds: list[float]
    failures: int
    length: float

    def as_json(self) -> dict[str, Any]:
        """Answers a second, median and 95th percentile of latency in milliseconds."""
        cuts = statistics.quantiles(self.seconds, n=20, method="inclusive") if len(self.seconds) > 1 else [0.0] * 19
        return {
            "requests_per_second": len(self.seconds) / self.length,
            "median_milliseconds": 1e3 * cuts[9],
            "p95_milliseconds": 1e3 * cuts[18],
            "requests": len(self.seconds),
            "failures": self.failures,
        }


def ask(port: int, asked: Questions, clients: int, seconds: float) -> Timed:
    """Send requests from ``clients`` threads for ``seconds``, each over its own connection, one after another.

    Args:
        port: of the server on 127.0.0.1.
        asked: the requests to send, in turn.
        clients: number of threads.
        seconds: time to go on for.
    """
    times: list[float] = []
    failures: list[str] = []
    until = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        turn = number
        try:
            while time.perf_counter() < until:
                began = time.perf_counter()
                status, _, _ = post(connection, asked, turn)
                times.append(time.perf_counter() - began)
                turn += clients
                if status != 200:
                    failures.append(str(status))
        except (OSError, http.client.HTTPException) as error:
            failures.append(repr(error))
        finally:
            connection.close()

    began = time.perf_counter()
    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Timed(times, len(failures), time.perf_counter() - began)


def post(connection: http.client.HTTPConnection, asked: Questions, turn: int) -> tuple[int, bytes, str]:
    """Status, body and content type of the answer to one of the questions.

    Args:
        connection: to the server.
        asked: the requests.
        turn: number of the request, modulo their count.
    """
    connection.request("POST", "/invocations", asked.bodies[turn % len(asked.bodies)], asked.headers)
    response = connection.getresponse()
    return response.status, response.read(), response.headers.get("Content-Type", "")
