"""The servers that are compared."""

import os

from lab import CORES, DIST, RIVALS, ROOT, VENV, Server

# As gunicorn's documentation recommends.
WORKERS = 2 * CORES + 1

SETTINGS = {"PORT": "@PORT@", "REDIS_URL": "unix://@REDIS@"}
SERVICE = str(DIST / "abukiks")
JSON = {**SETTINGS, "LOG_FORMAT": "json"}
SERVE_CONFIG = ["/usr/sbin/nginx", "-e", "stderr", "-c", "@CONFIG@"]
GUNICORN = [str(VENV / "gunicorn"), "--bind=127.0.0.1:@PORT@", f"--workers={WORKERS}", "--log-level=error"]
SERVE_APP = [*GUNICORN, f"--chdir={ROOT / 'benches/flask'}", "app:app"]
APP_SETTINGS = {"REDIS_URL": "unix://@REDIS@", "PYTHONDONTWRITEBYTECODE": "1"}

LIMIT = Server("the limit", [str(RIVALS / "limit")], SETTINGS, counts=False)
LOGGED = Server("Abukiks", [SERVICE], JSON, logs=True)
SILENT = Server("Abukiks, access log off", [SERVICE], {**JSON, "ACCESS_LOG": "off"}, logs=True)
# Each request is that of a new visitor, who gets a session.
SESSIONS = Server("Abukiks, with sessions", [SERVICE], {**JSON, "SESSION_LIFETIME": "1min"}, logs=True)
AXUM = Server("axum + redis", [str(RIVALS / "axum-redis")], SETTINGS)
AXUM_SCRIPT = Server("axum + redis, by the script of Abukiks", [str(RIVALS / "axum-script")], SETTINGS)
LUA = Server("nginx + lua-resty-redis", SERVE_CONFIG, template="benches/nginx/lua.conf")
NGINX = Server("nginx `return 200`", SERVE_CONFIG, template="benches/nginx/return.conf", counts=False)
# A program of an earlier commit, measured beside the others: PRIOR=PROGRAM.
PRIOR = Server("an earlier build", [os.environ.get("PRIOR", "")], JSON, logs=True)
FLASK = Server("Flask + gunicorn", SERVE_APP, APP_SETTINGS)

SERVERS = [LIMIT, NGINX, SILENT, LOGGED, AXUM, LUA, FLASK]
NAMES = [server.name for server in SERVERS]

# In place of a number of connections that are kept: so many at a time, each for a single request.
ANEW, AT_A_TIME = "anew", 32
# One connection, with all that takes part in a request on one core.
ONE_CORE = "one core"
# Which servers are loaded over how many connections.
BESIDE = [AXUM_SCRIPT, SESSIONS, *([PRIOR] if PRIOR.command[0] else [])]
COMPARED = {
    ONE_CORE: [LIMIT, SILENT, LOGGED, AXUM, AXUM_SCRIPT, LUA],
    1: [*SERVERS, AXUM_SCRIPT],
    32: [*SERVERS, SESSIONS],
    256: [*SERVERS, SESSIONS],
    ANEW: [LIMIT, SILENT, LOGGED, AXUM],
}
MANY = [32, 256]
# The earlier build is in no table of loads. It is loaded all the same, to be as warm as the others when they take turns.
LOADED = {
    connections: [*servers, PRIOR] if PRIOR in BESIDE and connections in MANY else servers
    for connections, servers in COMPARED.items()
}
# Which also take turns of a moment. Flask does not: it would still answer when it is the turn of the next.
IN_TURNS = {connections: [server for server in LOADED[connections] if server is not FLASK] for connections in MANY}
