"""The route template of a request, read from what the framework left in its scope or environ.

Templates are spelled as OpenTelemetry's instrumentations spell them (`Route.path` in Starlette and FastAPI, `Rule.rule`
in Flask: a parameter keeps its converter), but whole: mounts and included routers are joined. Frameworks are recognised
by what their objects offer; none is imported.

Starlette and FastAPI tell which route served the request, not where it hangs. So the tree below the outermost router
is walked once, and every route and endpoint is remembered by identity, weakly, with the template that leads to it.
Meeting a new one makes the tree be walked again.

Where a request is turned from ASGI into WSGI, or back, what the inner framework tells cannot be seen from outside.
There, and there only, the path is matched a second time.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from exemplars._types import Environ, Scope

# What a hook into a framework that publishes nothing writes: the template, or "" for a request known to be unmatched.
KEY: Final = "exemplars.route"
# In an environ: the application that was called with it. Nothing else there tells what is mounted where.
APP: Final = "exemplars.app"

_MOST_ROUTERS: Final = 256
_DEEPEST: Final = 16
_FULL: Final = 2  # starlette.routing.Match.FULL.value


def asgi(scope: Scope) -> str | None:
    """The route template of the request with this *scope*; None when no route matched (a bare mount is none).

    To be called at the start of the response, with the very scope that the application was called with: Starlette and
    FastAPI update it in place, and what only a copy of it was told is not known here. A 405 keeps its template.
    *scope* is left as it is. Raises what a custom route's `matches` raises, and only where one object serves several
    templates. Safe under threads.

    A limit: with Starlette before 1.7 an endpoint that gets a second route after its first request keeps the template
    of the first.
    """
    if KEY in scope:
        return scope[KEY] or None
    try:
        table = _tables[id(scope["router"])]
        if "route" in scope:
            known = scope["route"]
            place = table.route[id(known)]
            if place.template is not None and place.ref() is known:
                return place.template
        elif "endpoint" not in scope:
            return None
        # Starlette before 1.7 leaves nothing else; elsewhere the route may be a mount, and the endpoint what is below.
        known = scope["endpoint"]
        place = table.endpoint[id(known)]
        if place.template is not None and place.ref() is known:
            return place.template or None
    except KeyError:
        pass
    return _found(scope)


def wsgi(environ: Environ) -> str | None:
    """The route template of the request with this *environ*; None when no route matched.

    To be called in `start_response`, with the very environ that the application was called with: Flask forgets the
    request when it returns. A 405 has no template, for Flask knows none. *environ* is left as it is. Safe under
    threads.

    If *environ* has the application under `exemplars.app`, the paths at which werkzeug's `DispatcherMiddleware` mounts
    are joined, and a request that Flask has forgotten or that went through a2wsgi to Starlette or FastAPI is matched
    again. `SCRIPT_NAME` itself never becomes part of a template: it may hold anything.
    """
    if KEY in environ:
        return environ[KEY] or None
    try:
        rule = environ["werkzeug.request"].url_rule
    except (KeyError, AttributeError):  # no Flask, or not any more
        return _matched_again(environ) if APP in environ else None
    if rule is None:
        return None
    template: str = rule.rule
    if environ.get("SCRIPT_NAME") and APP in environ:
        return _mount(environ) + template
    return template


def templates(app: Any) -> list[str]:
    """The templates of all routes of *app*, and the paths of its mounts, as far as they can be seen from outside.

    For Starlette, FastAPI, Flask and `DispatcherMiddleware`, also inside middleware that shows what it wraps; empty for
    anything else.
    """
    found = []
    for mount, served in _served(app):
        router = getattr(served, "router", served)
        if mount:
            found.append(mount)
        if _is_flask(served):
            found += [mount + rule.rule for rule in served.url_map.iter_rules()]
        elif _routes(router):
            found += [mount + way.template for way in _Table(router).ways]
    return found


def _nothing() -> None:
    """What is mounted, where that is nothing with templates of its own."""


class _Way(NamedTuple):
    """A way through the tree of routes to what answers."""

    template: str  # of all its links, joined
    root: str | None  # what its mounts add to root_path; None: that depends on the request
    links: tuple[Callable[[], Any], ...]  # weak: hosts, mounts, and the route at its end
    mounted: Callable[[], Any] | None  # weak: the Flask application mounted at its end, or nothing; None: a route

    @property
    def answer(self) -> str | None:
        """The template of a request that went this way, "" if it has none; None: a Flask application knows."""
        if self.mounted is None:
            return self.template
        return "" if self.mounted is _nothing else None


class _Place:
    """Where in the tree an object is; nowhere, if there are no ways."""

    __slots__ = ("ref", "template", "ways")

    def __init__(self, ref: Callable[[], Any]) -> None:
        self.ref = ref
        self.template: str | None = None  # or "", where all ways agree
        self.ways: list[_Way] = []

    def add(self, way: _Way) -> None:
        agrees = not self.ways or self.template == way.answer
        self.template = way.answer if agrees else None
        self.ways.append(way)


_Places = dict[int, _Place]

_tables: dict[int, "_Table"] = {}


class _Table:
    """Every route and endpoint below *router*, by identity."""

    __slots__ = ("endpoint", "root", "route", "ways")

    def __init__(self, router: Any) -> None:
        self.root = weakref.ref(router, partial(_forget, _tables, id(router)))
        self.route: _Places = {}
        self.endpoint: _Places = {}
        self.ways: list[_Way] = []  # in the order in which the routers try them
        self._walk(router.routes, _Way("", "", (), None), ())

    def _walk(self, routes: Sequence[Any], way: _Way, above: tuple[Sequence[Any], ...]) -> None:
        above = (*above, routes)
        for route in routes:
            included = getattr(route, "effective_route_contexts", None)
            if included is None:
                self._add(route, (route,), way, above)
                continue
            # FastAPI from 0.137 on includes a router as it is: the prefix is not in its routes but in contexts.
            for context in included():
                aliases = (context.original_route, context)
                self._add(context.starlette_route or context, aliases, way, above)

    def _add(self, route: Any, aliases: Iterable[Any], way: _Way, above: tuple[Sequence[Any], ...]) -> None:
        """Take down *route*, which a scope may know by any of its *aliases*, and all below it."""
        if not hasattr(route, "matches"):
            return
        path, endpoint = getattr(route, "path", ""), getattr(route, "endpoint", None)  # a host has no path
        mounted = getattr(route, "app", None) if endpoint is None else None
        owner = weakref.ref(route)
        way = way._replace(template=way.template + path, links=(*way.links, owner))
        if mounted is not None:
            way = way._replace(root=None if way.root is None or "{" in path else way.root + path)
            inside = _inside(route)
            routes = _routes(inside)
            if not any(routes is other for other in above):  # what is mounted may hold what it is mounted in
                self._walk(routes, way, above)
            # Of several applications behind one mount it cannot be known which one answered.
            flask = _is_flask(inside) and len(_mounts(mounted)) == 1
            way = way._replace(mounted=weakref.ref(inside) if flask else _nothing)
            _place(self.endpoint, mounted, owner, "app").add(way)
        elif endpoint is not None:
            _place(self.endpoint, endpoint, owner, "endpoint").add(way)
        for alias in aliases:
            place = _place(self.route, alias, owner, "")
            if mounted is None:
                place.add(way)
        self.ways.append(way)


def _table(router: Any, outdated: _Table | None = None) -> _Table:
    """The table of *router*; a new one, if the one there is *outdated*."""
    table = _tables.get(id(router))
    if table is None or table is outdated or table.root() is not router:
        if len(_tables) >= _MOST_ROUTERS:
            _tables.clear()
        table = _Table(router)
        if outdated is not None:
            for new, old in ((table.route, outdated.route), (table.endpoint, outdated.endpoint)):
                for key, place in old.copy().items():
                    if not place.ways and place.ref() is not None:  # known to be nowhere
                        new.setdefault(key, place)
        _tables[id(router)] = table
    return table


def _place(places: _Places, known: Any, owner: Callable[[], Any], attribute: str) -> _Place:
    place = places.get(id(known))
    if place is None or place.ref() is not known:
        place = places[id(known)] = _Place(_weakly(known, owner, attribute))
    return place


def _forget(cache: dict[int, Any], key: int, _: object) -> None:
    cache.pop(key, None)


def _weakly(known: Any, owner: Callable[[], Any], attribute: str) -> Callable[[], Any]:
    """A weak reference to *known*, through its *owner* if it has no place for one."""
    try:
        return weakref.ref(known)
    except TypeError:
        return lambda: getattr(owner(), attribute, None)


def _routes(app: Any) -> Sequence[Any]:
    routes = getattr(app, "routes", None)
    return routes if isinstance(routes, list) else ()


def _inside(app: Any) -> Any:
    """What middleware around *app* lead to: something with routes, a Flask application, or None."""
    for _ in range(_DEEPEST):
        if app is None or _routes(app) or _is_flask(app):
            return app
        app = getattr(app, "app", None)
    return None


def _is_flask(app: Any) -> bool:
    return hasattr(app, "create_url_adapter")


def _found(scope: Scope) -> str | None:
    """The template, where it takes more than to know the route."""
    router = scope.get("router")
    if id(router) not in _tables and not _routes(router):
        return None
    way = _way(router, scope)
    if way is not None:
        return _end(way, scope)
    # An application that is mounted inside a closure is not in the outer tree, but has told its own.
    hidden = getattr(scope.get("app"), "router", None)
    way = _way(hidden, scope) if hidden is not router and _routes(hidden) else None
    if way is None or way.root is None:
        return None
    mount, at = _match([way for way in _table(router).ways if way.mounted is not None], scope)
    if mount is None or at["root_path"] + way.root != scope.get("root_path"):
        return None
    rest = _end(way, scope)
    return None if rest is None else mount.template + rest


def _way(router: Any, scope: Scope) -> _Way | None:
    """The way below *router* to the route, or else to the endpoint, that *scope* tells of."""
    ways = _ways(router, "route", scope.get("route")) or _ways(router, "endpoint", scope.get("endpoint"))
    if len(ways) > 1:
        # One route that was included twice: FastAPI tells in what context.
        told = scope.get("fastapi")
        context = told.get("effective_route_context") if isinstance(told, Mapping) else None
        if getattr(context, "original_route", None) is scope.get("route"):
            ways = _ways(router, "route", context) or ways
    if len(ways) > 1 and all(way.root is not None for way in ways):
        # Mounted twice: the mounts have told their paths.
        root = scope.get("root_path", "")
        root = root[len(scope.get("app_root_path", root)) :]
        ways = [way for way in ways if way.root == root]
    if len(ways) > 1:
        # One endpoint of two routes, or mounts whose paths have parameters.
        return _match(ways, scope)[0]
    return ways[0] if ways else None


def _ways(router: Any, key: str, known: Any) -> list[_Way]:
    """The ways below *router* to *known*, which is what the scope has under *key*."""
    if known is None:
        return []
    table = _table(router)
    place = getattr(table, key).get(id(known))
    if place is None or place.ref() is not known:
        table = _table(router, outdated=table)
        place = _place(getattr(table, key), known, lambda: None, "")
    ways: list[_Way] = place.ways
    return ways


def _match(ways: Iterable[_Way], scope: Scope) -> tuple[_Way | None, Scope]:
    """The way that leads to the path of *scope*, as the routers themselves choose it, and the scope at its end."""
    start = {
        "type": "http",
        "method": scope.get("method", ""),
        "path": scope.get("path", ""),
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
        "headers": scope.get("headers", ()),
    }
    partly: tuple[_Way | None, Scope] = None, start
    for way in ways:
        at: Scope = dict(start)
        degree = 0
        for link in way.links:
            route = link()
            if route is None:  # removed since
                degree = 0
                break
            match, update = route.matches(at)
            degree = match.value
            if not degree:
                break
            at.update(update)
        if degree == _FULL:
            # A mount keeps what matched partly below it.
            below = partly[0] is not None and partly[0].links[: len(way.links)] == way.links
            return partly if below else (way, at)
        if degree and partly[0] is None:
            partly = way, at
    return partly


def _end(way: _Way, scope: Scope) -> str | None:
    """The template at the end of *way*: that of a route, or of the rule of a Flask application mounted there."""
    if way.mounted is None:
        return way.template
    app = way.mounted()
    if app is None:
        return None
    root, path = scope.get("root_path", ""), scope.get("path", "")
    if path.startswith(root):
        path = path[len(root) :]
    server = scope.get("server") or ("localhost", 80)
    environ = {
        "REQUEST_METHOD": scope.get("method", ""),
        "SCRIPT_NAME": root.encode(errors="replace").decode("latin-1"),
        "PATH_INFO": path.encode(errors="replace").decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "wsgi.url_scheme": scope.get("scheme", "http"),
    }
    for name, value in scope.get("headers", ()):
        if name == b"host":
            environ["HTTP_HOST"] = value.decode("latin-1")
    rule = _rule(app, environ)
    return None if rule is None else way.template + rule


def _rule(app: Any, environ: Environ) -> str | None:
    """The rule by which the Flask application *app* would answer *environ*; None for its 404, 405 and redirects."""
    try:
        rule, _ = app.create_url_adapter(app.request_class(environ)).match(return_rule=True)
    except Exception:  # werkzeug tells all three by exceptions; one from a converter ends in the same unmatched 500
        return None
    template: str = rule.rule
    return template


def _served(app: Any, path: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
    """*app* and the applications it may hand a request to, each with the path at which it is mounted."""
    if app is None or any(app is other for other in above):
        return
    yield path, app
    above = (*above, app)
    mounts = getattr(app, "mounts", None)
    for mount, mounted in mounts.items() if isinstance(mounts, Mapping) else ():
        yield from _served(mounted, path + mount, above)
    for name in ("wsgi_app", "app", "wsgi", "__self__"):  # the last: middleware in Flask has a bound method around it
        yield from _served(getattr(app, name, None), path, above)


_known_mounts: dict[int, tuple[Callable[[], Any], tuple[str, ...]]] = {}


def _mounts(app: Any) -> tuple[str, ...]:
    """The paths at which *app* mounts applications, longest first; the last, and often the only one, is empty."""
    key = id(app)
    known = _known_mounts.get(key)
    if known is not None and known[0]() is app:
        return known[1]
    mounts = tuple(sorted({path for path, _ in _served(app)} | {""}, key=len, reverse=True))
    if len(_known_mounts) >= _MOST_ROUTERS:
        _known_mounts.clear()
    with suppress(TypeError):  # it cannot be referenced weakly
        _known_mounts[key] = weakref.ref(app, partial(_forget, _known_mounts, key)), mounts
    return mounts


def _mount(environ: Environ) -> str:
    """The mount that the request was handed to."""
    script: str = environ["SCRIPT_NAME"]
    return next(mount for mount in _mounts(environ[APP]) if script.endswith(mount))


def _matched_again(environ: Environ) -> str | None:
    script = environ.get("SCRIPT_NAME", "")
    served = [(mount, app) for mount, app in _served(environ[APP]) if script.endswith(mount)]
    for mount, app in sorted(served, key=lambda mounted: len(mounted[0]), reverse=True):
        if _is_flask(app):
            # Flask had this request and has cleared it; without the key the request never came so far.
            rule = _rule(app, environ.copy()) if environ.get("werkzeug.request", app) is None else None
            return None if rule is None else mount + rule
        router = getattr(app, "router", app)
        if _routes(router):
            root = script.encode("latin-1", "replace").decode(errors="replace")
            scope = {
                "method": environ.get("REQUEST_METHOD", ""),
                "path": root + environ.get("PATH_INFO", "").encode("latin-1", "replace").decode(errors="replace"),
                "root_path": root,
                "headers": [(b"host", environ.get("HTTP_HOST", "").encode("latin-1", "replace"))],
            }
            way, at = _match(_table(router).ways, scope)
            rest = _end(way, at) if way is not None else None
            return None if rest is None else mount + rest
    return None
