"""What a server counts, in Prometheus' text format: requests by outcome, where their time goes, batches, queue, connections."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from clamp_jax.deploy import memory
from clamp_jax.deploy.batching import Answer

OUTCOMES = ("answered", "refused", "busy", "late", "failed")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Gauges:
    """The figures of one server, in a registry of their own: several servers may live in one process."""

    def __init__(self, about: dict[str, str]):
        """`about`: names and values of versions and hashes, told once."""
        self._registry = CollectorRegistry()
        own = {"registry": self._registry}
        self.requests = Counter("clamp_requests", "Requests by what came of them.", ["outcome"], **own)
        for outcome in OUTCOMES:
            self.requests.labels(outcome)  # a rate is known before the first one
        self.clipped = Counter("clamp_actions_clipped", "Replies whose actions were held to the joints' limits.", **own)
        self.seconds = Histogram("clamp_request_seconds", "Where a request's time goes.", ["part"], buckets=_SECONDS, **own)
        self.batch = Histogram("clamp_batch_size", "Requests in one call of the policy, each counted.", buckets=_SIZES, **own)
        self.pending = Gauge("clamp_pending_requests", "Requests that wait or run.", **own)
        self.connections = Gauge("clamp_connections", "Clients that are connected.", **own)
        self.ready = Gauge("clamp_ready", "1 once the policy is warm, 0 before it and while the server drains.", **own)
        Gauge("clamp_memory_in_use_bytes", "What malloc has given out: a leak shows here first.", **own).set_function(memory.in_use)
        ProcessCollector(registry=self._registry)  # memory, processor time, open files of the process
        Info("clamp_build", "What is served, by which versions.", **own).info(about)

    def answered(self, answer: Answer, total_s: float) -> None:
        """One request that got its actions."""
        self.requests.labels("answered").inc()
        self.batch.observe(answer.batch)
        for part, seconds in (("queue", answer.queue_s), ("infer", answer.infer_s), ("total", total_s)):
            self.seconds.labels(part).observe(seconds)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)
