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
  tasks = map (lib.removeSuffix ".rs") (
    lib.filter (lib.hasSuffix ".rs") (lib.attrNames (builtins.readDir ../admin))
  );

  # What `make run` does, with the program of the package and in a folder of its own.
  dev = pkgs.writeShellApplication {
    name = "abukiks-dev";
    runtimeInputs = [
      pkgs.bash
      pkgs.gawk
      pkgs.gnused
      pkgs.redis
      pkgs.util-linux
    ];
    text = ''
      state=''${XDG_STATE_HOME:-$HOME/.local/state}/abukiks
      mkdir -p "$state/dev"
      ln -sf ${../dev/run.sh} "$state/dev/run.sh"
      ABUKIKS_PROGRAM=${lib.getExe abukiks} exec bash "$state/dev/run.sh"
    '';
  };
in
{
  default = app (lib.getExe abukiks) "The service";
}
// lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
  dev = app (lib.getExe dev) "The service and a real Redis of its own";
}
// lib.genAttrs tasks (
  task:
  app "${abukiks}/libexec/abukiks/${task}" "Admin process ${task}, with the settings of the service"
)
