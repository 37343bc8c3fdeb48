"""Times of work on a device: of the clock on a CPU, of events in the stream on CUDA, which does not wait for them."""

import time

import torch

Stamp = float | torch.cuda.Event


def stamp(device: torch.device) -> Stamp:
    """When the work given to ``device`` so far is done."""
    if device.type != "cuda":
        return time.perf_counter()
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def seconds_between(begin: Stamp, end: Stamp) -> float:
    """Seconds from one stamp to a later one of the same device; waits for the latter."""
    if isinstance(begin, float) or isinstance(end, float):
        assert isinstance(begin, float)
        assert isinstance(end, float)
        return end - begin
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
