# `nix run`: the service, the service with a Redis of its own (`.#dev`), and each admin process.
{ pkgs }:

let
  inherit (pkgs) lib abukiks;

  app = program: description: {
    type = "app";
    program = toString program;
    meta = { inherit description; };
  };

  # One file under admin/ is one admin process.
  tasks = map (lib.removeSuffix ".rs") (lib.attrNames (builtins.readDir ../admin));

  dev = pkgs.writeShellApplication {
    name = "abukiks-dev";
    runtimeInputs = [ pkgs.redis ];
    text = ''
      # Ctrl-C ends the service, which drains; then its Redis ends, and saves what was counted.
      data=''${XDG_STATE_HOME:-$HOME/.local/state}/abukiks-dev
      mkdir -p "$data"
      run=$(mktemp -d)
      setsid redis-server --port 0 --unixsocket "$run/redis.sock" \
        --dir "$data" --appendonly yes --appendfsync always > "$data/redis.log" &
      redis=$!
      trap 'kill "$redis"; wait "$redis" || true; rm -r "$run"' EXIT
      trap : INT TERM
      until redis-cli -s "$run/redis.sock" ping &> /dev/null; do
        kill -0 "$redis"
      done
      export REDIS_URL=unix://$run/redis.sock
      echo "Open http://127.0.0.1:''${PORT:-5000}/ ; Ctrl-C ends it."
      ${abukiks}/bin/abukiks
    '';
  };
in
{
  default = app (lib.getExe abukiks) "The service";
  dev = app (lib.getExe dev) "The service and a real Redis of its own";
}
// lib.genAttrs tasks (
  task:
  app "${abukiks}/libexec/abukiks/${task}" "Admin process ${task}, with the settings of the service"
)
