# What the module refuses, and how it says so. Each case is a host that must not be built.
{ pkgs, self }:

let
  inherit (pkgs) lib;

  refusals =
    abukiks:
    let
      host = self.inputs.nixpkgs.lib.nixosSystem {
        inherit (pkgs.stdenv.hostPlatform) system;
        modules = [
          self.nixosModules.default
          {
            boot.isContainer = true;
            system.stateVersion = "26.05";
            services.abukiks = {
              enable = true;
            }
            // abukiks;
          }
        ];
      };
    in
    map (failed: failed.message) (
      lib.filter (
        { assertion, message }: !assertion && lib.hasPrefix "services.abukiks" message
      ) host.config.assertions
    );

  local = {
    redis.createLocally = true;
  };

  # A part of the message, or null where nothing is wrong, and the settings.
  cases = [
    [
      null
      (local // { instances = [ 5000 ]; })
    ]
    [
      "does not say where Redis is"
      { }
    ]
    [
      null
      { environmentFiles = [ "/run/secrets/redis.env" ]; }
    ]
    [
      "by redis.createLocally, redis.url; keep one"
      {
        redis.createLocally = true;
        redis.url = "redis://other/";
      }
    ]
    [
      "by redis.createLocally, settings.REDIS_URL; keep one"
      (local // { instances."5000".settings.REDIS_URL = "redis://other/"; })
    ]
    [
      "holds a password"
      { redis.url = "redis://user:secret@other/"; }
    ]
    [
      "holds a password"
      { redis.url = "unix:///run/redis.sock?pass=secret"; }
    ]
    [
      "HOST or PORT"
      (local // { settings.PORT = 5000; })
    ]
    [
      "\"65536\" is not a port"
      (local // { instances."65536" = { }; })
    ]
    [
      "\"05000\" is not a port"
      (local // { instances."05000" = { }; })
    ]
    [
      "is in the store"
      { credentials.redis-url = pkgs.writeText "redis-url" "redis://:secret@other/"; }
    ]
    [
      "is in the store"
      (local // { environmentFiles = [ (pkgs.writeText "env" "") ]; })
    ]
  ];

  asExpected =
    message: said:
    if message == null then
      said == [ ]
    else
      lib.length said == 1 && lib.hasInfix message (lib.head said);

  wrong = lib.filter (result: result != null) (
    map (
      case:
      let
        message = lib.head case;
        said = refusals (lib.last case);
      in
      if asExpected message said then null else { inherit message said; }
    ) cases
  );
in
if wrong == [ ] then
  pkgs.runCommand "abukiks-assertions" { } "touch $out"
else
  throw "the module says something else than expected: ${builtins.toJSON wrong}"
