# What the module refuses, and how it says so. Each case is the settings of a host and what comes of them.
{ pkgs, self }:

let
  inherit (pkgs) lib;

  evaluate =
    module:
    self.inputs.nixpkgs.lib.nixosSystem {
      inherit (pkgs.stdenv.hostPlatform) system;
      modules = [
        self.nixosModules.default
        {
          boot.isContainer = true;
          system.stateVersion = "26.05";
          services.abukiks.enable = true;
        }
        module
      ];
    };

  # The messages of the module's own assertions; all of NixOS's would take their time.
  refusals =
    host:
    map (failed: failed.message) (
      lib.filter ({ assertion, ... }: !assertion) (
        lib.concatMap (
          definition: lib.optionals (lib.hasSuffix "/nixos/module.nix" definition.file) definition.value
        ) host.options.assertions.definitionsWithLocations
      )
    );

  # Whether all values are of the types of their options.
  isTyped =
    host:
    (builtins.tryEval (
      builtins.deepSeq {
        inherit (host.config.services.abukiks)
          backup
          credentials
          environmentFiles
          extraEnvironment
          instances
          listenAddress
          monitor
          redis
          report
          settings
          ;
      } null
    )).success;

  local.redis.createLocally = true;
  instance = settings: local // { instances."5000" = settings; };
  url = url: { redis = { inherit url; }; };
  backup =
    settings:
    local
    // {
      backup = settings // {
        enable = true;
      };
    };
  report =
    settings:
    local
    // {
      report = {
        enable = true;
        from = "counter@example.org";
        to = [ "owner@example.org" ];
      }
      // settings;
    };

  # Each list: settings that are accepted.
  accepted = [
    (local // { instances = [ 5000 ]; })
    { environmentFiles = [ "/run/secrets/redis.env" ]; }
    { credentials.redis-url = "/run/secrets/redis-url"; }
    (url "rediss://redis.example.org/")
    (url "redis://user@other/")
    { settings.REDIS_URL = "unix:///run/redis/redis.sock"; }
    # An instance may have a Redis of its own, by whatever way.
    (instance { settings.REDIS_URL = "redis://other/"; })
    (instance { credentials.redis-url = "/run/secrets/redis-url"; })
    { instances."5000".settings.REDIS_URL = "redis://other/"; }
    # What is null is not said.
    (local // { settings.REDIS_URL = null; })
    (local // { settings.HOST = null; })
    (local // { instances."abc".enable = false; })
    (
      local
      // {
        listenAddress = "[::1]";
        instances."5000".listenAddress = "192.0.2.1";
      }
    )
    (local // { settings.REDIS_KEY_FILE = "%d/redis-key"; })
    (
      local
      // {
        instances = [
          80
          5000
        ];
        monitor = {
          enable = true;
          listenAddress = "[fd00::1]";
        };
      }
    )
    (backup { url = "s3://bucket/prefix"; })
    (backup { url = "file:///var/lib/abukiks-backups"; })
    (backup { credentials.backup-env = "/run/secrets/backup-env"; })
    (report { url = "smtps://user@mail.example.org"; })
    (report {
      from = null;
      to = [ ];
      environmentFiles = [ "/run/secrets/report.env" ];
    })
  ];

  # A part of the message, and the settings that it refuses.
  refused = [
    [
      "services.abukiks does not say where Redis is"
      { }
    ]
    [
      "instances.\"5001\" does not say where Redis is"
      {
        instances = {
          "5000".settings.REDIS_URL = "redis://other/";
          "5001" = { };
        };
      }
    ]
    [
      "redis is said more than once, by redis.createLocally, redis.url; keep one"
      {
        redis.createLocally = true;
        redis.url = "redis://other/";
      }
    ]
    [
      "by redis.createLocally, settings.REDIS_URL; keep one"
      (local // { settings.REDIS_URL = "redis://other/"; })
    ]
    [
      "by redis.url, credentials.redis-url; keep one"
      (url "redis://other/" // { credentials.redis-url = "/run/secrets/redis-url"; })
    ]
    [
      "instances.\"5000\".redis is said more than once, by credentials.redis-url, extraEnvironment.REDIS_URL; keep one"
      (instance {
        credentials.redis-url = "/run/secrets/redis-url";
        extraEnvironment.REDIS_URL = "redis://other/";
      })
    ]
    [
      "redis.url holds a password"
      (url "redis://user:secret@other/")
    ]
    [
      "redis.url holds a password"
      (url "unix:///run/redis.sock?pass=secret")
    ]
    [
      "abukiks.settings.REDIS_URL holds a password"
      { settings.REDIS_URL = "redis://:secret@other/"; }
    ]
    [
      "extraEnvironment.REDIS_URL holds a password"
      { extraEnvironment.REDIS_URL = "redis://:secret@other/"; }
    ]
    [
      "instances.\"5000\".settings.REDIS_URL holds a password"
      (instance { settings.REDIS_URL = "redis://:secret@other/"; })
    ]
    [
      "abukiks.settings has HOST, PORT or ADMIN_PORT"
      (local // { settings.PORT = 5000; })
    ]
    [
      "instances.\"5000\".settings has HOST, PORT or ADMIN_PORT"
      (instance { settings.HOST = "::1"; })
    ]
    [
      "\"redis url\" is no name of a credential"
      (local // { credentials."redis url" = "/run/secrets/redis-url"; })
    ]
    [
      "\"SSL-CERT\" is no name of a variable"
      (local // { extraEnvironment.SSL-CERT = "/etc/ssl"; })
    ]
    [
      "redis.overTcp is false, but a Redis URL is none of a unix socket"
      {
        redis = {
          url = "redis://other/";
          overTcp = false;
        };
      }
    ]
    [
      "redis.server names \"none\""
      { redis.server = "none"; }
    ]
    [
      "backup.url is not set; set it, or name one of environmentFiles or credentials.backup-env"
      (backup { })
    ]
    [
      "backup.url has an unknown scheme; it takes s3://, gs://, az:// or file://"
      (backup { url = "ftp://store/"; })
    ]
    [
      "backup.url holds more than the name"
      (backup { url = "s3://key:secret@bucket/"; })
    ]
    [
      "backup.extraEnvironment.AWS_SECRET_ACCESS_KEY is a secret"
      (backup {
        url = "s3://bucket/";
        extraEnvironment.AWS_SECRET_ACCESS_KEY = "secret";
      })
    ]
    [
      "report.url is not set; set it, or name one of environmentFiles or credentials.mail-url"
      (report { })
    ]
    [
      "report.url has an unknown scheme; it takes smtp:// or smtps://"
      (report { url = "imap://mail.example.org"; })
    ]
    [
      "report.url holds more than the name"
      (report { url = "smtps://user:secret@mail.example.org"; })
    ]
    [
      "report.from is not set"
      (report {
        url = "smtps://mail.example.org";
        from = null;
      })
    ]
    [
      "report.to is not set"
      (report {
        url = "smtps://mail.example.org";
        to = [ ];
      })
    ]
    [
      "no instances to balance over"
      (local // { nginx.enable = true; })
    ]
    [
      "takes port 110000 for instances.\"10000\""
      (
        local
        // {
          instances = [ 10000 ];
          monitor.enable = true;
        }
      )
    ]
    [
      "takes port 1500 for instances.\"500\""
      (
        local
        // {
          instances = [
            500
            1500
          ];
          monitor.enable = true;
        }
      )
    ]
    [
      "\"65536\" is not a port"
      (local // { instances."65536" = { }; })
    ]
    [
      "\"65536\" is not a port"
      (local // { instances = [ 65536 ]; })
    ]
    [
      "\"05000\" is not a port"
      (local // { instances."05000" = { }; })
    ]
    [
      "\"abc\" is not a port"
      (
        local
        // {
          openFirewall = true;
          instances.abc = { };
        }
      )
    ]
  ];

  # Settings of a type that no option takes; the message is the module system's.
  mistyped = [
    # They would be copied to the store, which every user can read.
    { credentials.redis-url = ./assertions.nix; }
    { environmentFiles = [ ./assertions.nix ]; }
    (instance { credentials.redis-url = ./assertions.nix; })
    (instance { environmentFiles = [ ./assertions.nix ]; })
    { credentials.redis-url = pkgs.writeText "redis-url" "redis://:secret@other/"; }
    { credentials.redis-url = "${pkgs.writeText "redis-url" "redis://:secret@other/"}"; }
    { environmentFiles = [ "${pkgs.writeText "env" ""}" ]; }
    { environmentFiles = [ "abukiks.env" ]; }
    (backup { credentials.backup-env = ./assertions.nix; })
    (backup { keep = 0; })
    (report { to = "owner@example.org"; })
    { settings.LOG_LEVLE = "warn"; }
    { settings.LOG_LEVEL = "loud"; }
    { settings.REDIS_KEY_FILE = ./assertions.nix; }
    { settings.COUNTER_KEY = "two\nlines"; }
    { extraEnvironment.TZ = "two\nlines"; }
    (instance { settings.LOG_LEVLE = "warn"; })
    (instance { startMode = "lazy"; })
    (instance { listenAddress = "localhost"; })
    { listenAddress = "localhost"; }
    { listenAddress = "::1"; }
    { listenAddress = "127.0.0.1:5000"; }
    { monitor.listenAddress = "localhost"; }
    { monitor.listenAddress = null; }
    {
      instances = [
        5000
        5000
      ];
    }
  ];

  # Units of one instance, whose drop-in would hide that of all.
  hiding =
    map
      (
        units:
        evaluate {
          services.abukiks = instance { };
          systemd = units;
        }
      )
      [
        { services."abukiks@5000".environment.LOG_LEVEL = "warn"; }
        { sockets."abukiks@5000".socketConfig.Backlog = 1; }
      ];

  of = settings: evaluate { services.abukiks = settings; };

  wrong =
    map (settings: {
      accepted = settings;
      said = refusals (of settings);
    }) (lib.filter (settings: !isTyped (of settings) || refusals (of settings) != [ ]) accepted)
    ++ lib.concatMap (
      case:
      let
        message = lib.head case;
        said = refusals (of (lib.last case));
      in
      lib.optional (lib.length said != 1 || !lib.hasInfix message (lib.head said)) {
        inherit message said;
      }
    ) refused
    ++ lib.concatMap (
      host:
      let
        said = refusals host;
      in
      lib.optional (lib.length said != 1 || !lib.hasInfix "would hide" (lib.head said)) { hiding = said; }
    ) hiding
    ++ map (settings: { mistyped = settings; }) (lib.filter (settings: isTyped (of settings)) mistyped);
in
if wrong == [ ] then
  pkgs.runCommand "abukiks-assertions" { } "touch $out"
else
  throw "the module says something else than expected: ${builtins.toJSON wrong}"
