# The settings of the service that a host may set, each as a typed option: the names, types and
# meanings of src/config/mod.rs. What is left at null is not set, and has the default of the service.
{ lib }:

let
  inherit (lib) types;

  setting =
    type: example: description:
    lib.mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };

  period = types.either types.ints.unsigned (
    types.strMatching "[0-9]+ ?[a-z]+( ?[0-9]+ ?[a-z]+)*"
    // {
      description = "time such as 250ms, 10s or \"1m 30s\" (a bare number is seconds)";
    }
  );
  orWord = word: type: types.either (types.enum [ word ]) type;
  # `on` and `off`, or Nix's own true and false.
  switch = types.either types.bool (
    types.enum [
      "on"
      "off"
    ]
  );
  count = types.ints.between 1 4294967295;
  # An environment variable of a unit cannot hold a line break.
  text = types.strMatching "[^[:cntrl:]]+" // {
    description = "text without control characters";
  };
  # A string, since a path would be copied to the store, where every user of the host can read it.
  file = types.strMatching "(/|%d/)[^[:cntrl:]]+" // {
    description = "absolute path as a string, or `%d/NAME` for a credential";
  };
  # systemd binds the socket. The module refuses these two with a message that says so.
  bySystemd = lib.mkOption {
    type = types.nullOr types.raw;
    default = null;
    visible = false;
  };
in
{
  HOST = bySystemd;
  PORT = bySystemd;
  ADMIN_PORT = bySystemd;
  REDIS_URL =
    setting text "redis://redis.example.org/"
      "The Redis that keeps the count: what {option}`services.abukiks.redis.url` says, or for one instance alone another.";
  REDIS_URL_FILE =
    setting file "/etc/redis-url"
      "File whose first line is the Redis URL, for a URL with a password. The instances must be able to read it; the credential `redis-url` is the better way.";
  REDIS_CA_FILE =
    setting file "/etc/ssl/redis-ca.pem"
      "PEM file with the certificate authorities to trust for `rediss://`, instead of the system's (which `SSL_CERT_FILE` or `SSL_CERT_DIR` replaces). A server that shows exactly one of these certificates is trusted too, whatever name and dates it has.";
  REDIS_CERT_FILE =
    setting file "/run/keys/redis.crt"
      "PEM file with the client certificate to show to a `rediss://` server. Needs `REDIS_KEY_FILE`.";
  REDIS_KEY_FILE =
    setting file "/run/keys/redis.key"
      "PEM file with the private key of `REDIS_CERT_FILE`.";
  REDIS_TLS_VERIFY =
    setting switch false
      "Check the certificate of a `rediss://` server. `off` accepts any certificate, so that another server can pass for Redis and learn the password; each start logs a warning.";
  REDIS_TIMEOUT =
    setting period "500ms"
      "Time budget of a visit: with no answer from Redis by then, the visitor gets 503. At most 1m.";
  COUNTER_KEY = setting text "visitorCount" "Redis key that holds the count, a plain integer.";
  SESSION_LIFETIME =
    setting (orWord "off" period) "7days"
      "How long a visitor who comes back is known, after each visit, and not counted again; `off` counts every visit. Needs room in Redis for each visitor of that time, and cookies at the visitor.";
  COUNTER_FENCE =
    setting switch true
      "Refuse visits with 503 while the count stands below a number that this process has given out, until `reset-count` is run; raising it helps too, unless a reset was lost with it. A restart of the process forgets the number.";
  MIN_REPLICAS_ACK =
    setting types.ints.u32 1
      "Replicas of Redis that must have a visit before it gets its number. With too few in time the visitor gets 503.";
  MAX_WAITING_VISITS =
    setting count 1024
      "Visits that may wait for Redis at one time. One more gets 503 at once.";
  MAX_CONNECTIONS =
    setting (orWord "auto" count) 4096
      "Connections served at one time; further ones wait in the socket's backlog. `auto` is the limit of open files less a reserve.";
  MAX_HEADER_BYTES =
    setting (types.ints.between 256 4294967295) 8192
      "Size of a request's line and headers together, in bytes. A larger head gets 431.";
  MAX_HEADERS =
    setting (types.ints.between 1 10000) 64
      "Number of headers of a request. One more gets 431. At most 10000.";
  MAX_BODY_BYTES =
    setting types.ints.u32 0
      "Content of a request, in bytes, that is read and thrown away so that the client can read its answer. A request that announces more gets 413.";
  HEADER_TIMEOUT =
    setting period "5s"
      "Time from the first byte of a request to the end of its headers.";
  KEEP_ALIVE_TIMEOUT =
    setting period "75s"
      "Time that a connection may idle between requests, or wait for a client to read its answer.";
  DRAIN_LAME_DUCK =
    setting period "2s"
      "After SIGTERM, the least time for which new connections are still accepted, so that a load balancer can see `/readyz` turn 503 first.";
  DRAIN_IDLE =
    setting period "1s"
      "After SIGTERM, how long a connection must have been idle before it is closed.";
  DRAIN_TIMEOUT =
    setting period "30s"
      "After SIGTERM, the time after which whatever remains is cut and logged.";
  TRUSTED_PROXIES =
    setting text "127.0.0.1,10.0.0.0/8,unix"
      "Proxies whose word is taken about whose request they hand on: `none`, or addresses, networks and `unix` with commas between them.";
  FORWARDED_HEADER =
    setting (types.strMatching "[A-Za-z0-9-]+") "Forwarded"
      "The header in which those proxies name their client, `X-Forwarded-For` unless set.";
  COUNT_MAX_AGE =
    setting period "1m"
      "How long browsers and proxies may keep the answer of `/count`.";
  BADGE_LABEL = setting text "visitors" "What `/badge.svg` says before the number.";
  BADGE_COLOR =
    setting (types.strMatching "#([0-9a-fA-F]{3}|[0-9a-fA-F]{6})") "#b4471c"
      "The colour behind the number of `/badge.svg`.";
  CORS_ORIGINS =
    setting text "https://example.org"
      "Other sites whose pages may read `/`, `/count` and `/badge.svg` by script (CORS): `none`, `*`, or a list with commas.";
  ROBOTS_DISALLOW = setting switch true "Ask crawlers, by `/robots.txt`, to leave alone what counts.";
  IDLE_EXIT =
    setting (orWord "off" period) "10m"
      "End the process after this long without a connection; the next one starts it again. Suits `startMode = \"on-demand\"`.";
  LOG_FORMAT =
    setting
      (types.enum [
        "auto"
        "journald"
        "json"
        "text"
      ])
      "json"
      "`journald` (native, structured), `json` lines or `text` on stdout; `auto` is `journald` under systemd.";
  LOG_LEVEL = setting (types.enum [
    "error"
    "warn"
    "info"
    "debug"
    "trace"
  ]) "warn" "Least severe level that is logged.";
  ACCESS_LOG = setting (types.either switch (
    types.enum [ "full" ]
  )) false "One log event for each request; `full` adds the user agent and the referrer.";
  RELEASE =
    setting text "2026-11-23.1"
      "Release id, shown by `/version` and in every access event. Without one it is made of the package and the settings.";
}
