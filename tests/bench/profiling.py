"""Where our time goes: what each part adds, found by leaving it out, and what each of our functions takes."""

import cProfile
import gc
import pstats
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from prometheus_client import CollectorRegistry

from exemplars import ASGIMiddleware, WSGIMiddleware

from . import asgi, byhand, ours, render, requests, wsgi
from .report import interval, table
from .result import Row
from .rounds import frozen
from .spans import SpanKind
from .subject import BARE, App, Interface, Jobs, Request, Setting, Subject, read

ROUTES: Final = 60
BLOCK: Final = 180
ROUNDS: Final = 101
BLOCKS: Final = 20
PAGES: Final = 5
FUNCTIONS: Final = 30


class PassingASGI:
    """The least that a middleware can be: it wraps what it must and does nothing."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        def wrapped(message: Any) -> Any:
            return send(message)

        await self.app(scope, receive, wrapped)


class PassingWSGI:
    """The same for WSGI."""

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def wrapped(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, headers, exc_info)

        return self.app(environ, wrapped)


def profile(row: Row) -> None:
    """Print the profile of *row*."""
    if row == "render":
        pages()
    elif row == "asgi":
        with closing(asgi.Interface()) as interface:
            for name, app in (("Starlette", asgi.starlette(ROUTES)), ("raw ASGI", asgi.raw(ROUTES))):
                options: dict[str, Any] = {"route": asgi.raw_route} if name == "raw ASGI" else {}
                one(row, name, interface, app, ASGIMiddleware, PassingASGI, options)
    else:
        with closing(wsgi.Interface()) as interface:
            for name, app in (("Flask", wsgi.flask(ROUTES)), ("raw WSGI", wsgi.raw(ROUTES))):
                options = {"route": wsgi.raw_route} if name == "raw WSGI" else {}
                one(row, name, interface, app, WSGIMiddleware, PassingWSGI, options)


def one(
    row: Row,
    name: str,
    interface: Interface,
    app: App,
    middleware: Callable[..., App],
    passing: Callable[[App], App],
    options: Mapping[str, Any],
) -> None:
    """Print what the parts of *middleware* add to *app*, and its functions by their own time."""

    def part(name: str, **more: Any) -> Subject:
        # Without marks slots are filled at once, and stay fresh for the profiler's slower requests.
        registry = CollectorRegistry()
        made_with = {"registry": registry, "policy": ours.FRESH, "marks_per_second": 0.0, **options} | more
        count = f"{byhand.DURATION}_count"
        recorded = partial(read, [registry], count)
        return Subject(name, [middleware(app, **made_with)], recorded, routes=False, exemplars=True)

    def parts(setting: Setting, block: int) -> list[Subject]:
        return [
            Subject(BARE, [app]),
            Subject("a middleware that does nothing", [passing(app)]),
            part("ours without the active requests", measure=()),
            part("ours with a route that costs nothing", route=no_route),
            *ours.subjects(lambda **more: middleware(app, **more), setting, block, **options),
        ]

    for span in get_args(SpanKind):
        setting = Setting(name, ROUTES, span)
        cell = requests.measure(row, setting, interface, parts, ROUNDS, BLOCK)
        print(f"\n{setting}: added to {interval(cell.bare)} µs\n")
        print(table(("", "µs"), [(name, interval(value)) for name, value in cell.cost.items()]))
    profiled = Profiled(interface)
    made = requests.streams(setting, profiled, parts, BLOCK)
    for variant in list(ours.VARIANTS)[1:]:  # the first only differs by what the profiler itself makes slower
        profiled.profiler = cProfile.Profile()
        profiled.garbage = 0
        with frozen():
            for _ in range(BLOCKS):
                made[variant].seconds()
        garbage = profiled.garbage / (BLOCKS * BLOCK)
        print(f"\n{setting}: {variant}, under the profiler; {garbage:.1f} objects a request are left in cycles\n")
        print(functions(profiled.profiler, BLOCKS * BLOCK, "µs a request", 1e6))


def no_route(carrier: Any) -> str:
    return ""


class Profiled:
    """An interface that is profiled while it drives, and counts what only the garbage collector can free."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.profiler = cProfile.Profile()
        self.garbage = 0

    def request(self, number: int) -> Request:
        return self.interface.request(number)

    def drive(self, jobs: Jobs) -> float:
        gc.disable()
        try:
            with self.profiler:
                return self.interface.drive(jobs)
        finally:
            self.garbage += gc.collect()
            gc.enable()

    def answer(self, app: App, request: Request) -> object:
        return self.interface.answer(app, request)


def pages() -> None:
    """Print where a cold page's time goes, and a warm one's."""
    cold = cProfile.Profile()
    for _ in range(PAGES):
        made = render.filled(render.ours())
        with cold:
            made.render()
    print("\na cold page, under the profiler\n")
    print(functions(cold, PAGES, "ms a page", 1e3))
    changes: Mapping[str, Callable[[], None]] = {
        "every exemplar new": made.exemplars,
        f"{render.NEW} exemplars new": made.usual,
        "nothing new": lambda: None,
    }
    for name, change in changes.items():
        warm = cProfile.Profile()
        for _ in range(PAGES):
            change()
            with warm:
                made.render()
        print(f"\na warm page, {name}, under the profiler\n")
        print(functions(warm, PAGES, "ms a page", 1e3))


def functions(profiler: cProfile.Profile, times: int, unit: str, scale: float) -> str:
    """The functions with most time of their own; the profiler makes small ones look dearer than they are."""
    taken: Mapping[tuple[str, int, str], tuple[int, int, float, float, object]]
    taken = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    dearest = sorted(taken.items(), key=lambda each: -each[1][2])[:FUNCTIONS]
    return table(
        ("function", "calls", f"own, {unit}", "with callees"),
        [
            (
                f"{Path(file).name}:{line} {name}" if line else name,
                f"{calls / times:.2f}",
                f"{own / times * scale:.2f}",
                f"{whole / times * scale:.2f}",
            )
            for (file, line, name), (_, calls, own, whole, _) in dearest
        ],
    )
