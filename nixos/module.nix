# Abukiks on a NixOS host: instances `abukiks@PORT` of the unit files in ./units, which the package
# brings. This adds drop-ins to them and nothing else, so the units are the same on every system.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.abukiks;
  inherit (lib) mkIf mkOption types;

  settingsType = types.submodule {
    freeformType =
      with types;
      attrsOf (
        nullOr (oneOf [
          bool
          int
          str
        ])
      );
    options = import ./settings.nix { inherit lib; };
  };

  onOff = switch: if switch then "on" else "off";
  render = value: if lib.isBool value then onOff value else toString value;
  environmentOf =
    settings: lib.mapAttrs (_: render) (lib.filterAttrs (_: value: value != null) settings);

  redisUrl =
    if cfg.redis.createLocally then
      "unix://${config.services.redis.servers.abukiks.unixSocket}"
    else
      cfg.redis.url;

  # Factor V: a release is a build together with its configuration, and has an id of its own.
  withRelease =
    environment:
    {
      RELEASE = "${lib.getVersion cfg.package}-${
        builtins.substring 0 12 (
          builtins.hashString "sha256" (
            builtins.toJSON [
              (builtins.unsafeDiscardStringContext cfg.package.outPath)
              environment
            ]
          )
        )
      }";
    }
    // environment;

  common = environmentOf (cfg.settings // { REDIS_URL = cfg.settings.REDIS_URL or redisUrl; });
  ownOf = instance: environmentOf instance.settings;

  # The environment of the template, which an instance started by hand has too.
  templateEnvironment = withRelease common;
  # What an instance sets in addition: nothing, unless it has settings of its own.
  instanceEnvironment =
    instance:
    let
      own = ownOf instance;
    in
    lib.optionalAttrs (own != { }) (own // { inherit (withRelease (common // own)) RELEASE; });

  ports = lib.attrNames cfg.instances;
  eagerPorts = lib.filter (port: cfg.instances.${port}.startMode == "eager") ports;
  addressOf = port: "${if cfg.listenAddress == null then "127.0.0.1" else cfg.listenAddress}:${port}";
  allSettings = [ cfg.settings ] ++ map (instance: instance.settings) (lib.attrValues cfg.instances);

  # The program itself reads each configuration at build time: what it would refuse is never deployed.
  # Files are named on the host, not in the sandbox, so what names one is left out.
  checkedConfig =
    name: environment:
    pkgs.runCommand "abukiks-config-${name}" { } ''
      env --ignore-environment ${
        lib.escapeShellArgs (
          lib.mapAttrsToList (variable: value: "${variable}=${value}") (
            lib.filterAttrs (variable: _: !lib.hasSuffix "_FILE" variable) environment
          )
        )
      } ${lib.getExe cfg.package} --check-config > $out
    '';

  # The unit file lets an instance reach a unix socket and nothing else; this lets it reach Redis by TCP.
  networkAccess = pkgs.linkFarm "abukiks-redis-tcp" {
    "lib/systemd/system/abukiks@.service.d/redis-tcp.conf" = ./units/redis-tcp.conf;
  };

  instanceType = types.submodule {
    options = {
      startMode = mkOption {
        type = types.enum [
          "eager"
          "on-demand"
        ];
        default = "eager";
        description = ''
          `eager` starts the instance at boot; `on-demand` has systemd listen on the port and start
          the instance when the first visitor comes. With `settings.IDLE_EXIT` it also ends again.
        '';
      };
      settings = mkOption {
        type = settingsType;
        default = { };
        example = {
          LOG_LEVEL = "debug";
        };
        description = "Settings of this instance alone, over those of all.";
      };
    };
  };
in
{
  options.services.abukiks = {
    enable = lib.mkEnableOption "Abukiks, the visitor counter";

    package = lib.mkPackageOption pkgs "abukiks" { };

    instances = mkOption {
      type =
        with types;
        coercedTo (listOf port) (
          list:
          if lib.allUnique list then
            lib.genAttrs (map toString list) (_: { })
          else
            throw "services.abukiks.instances names a port twice: ${toString list}"
        ) (attrsOf instanceType);
      default = { };
      example = lib.literalExpression ''
        {
          "5000" = { };
          "5001".startMode = "on-demand";
        }
      '';
      description = ''
        The instances to run, by their ports: a set, or a plain list such as `[ 5000 5001 ]`. Each is
        a process of one thread behind a socket that systemd holds, so a restart refuses nobody.

        An instance that is taken out is stopped by the next switch. One that was started by hand,
        as by `systemctl start abukiks@5002`, stays. A switch does not change a socket that is open:
        stop `abukiks@PORT.socket` first when {option}`services.abukiks.listenAddress` changes.
      '';
    };

    listenAddress = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "[::1]";
      description = ''
        Address that the instances listen on, an IPv6 address in brackets. Without one they listen on
        all, and the firewall decides who reaches them.
      '';
    };

    settings = mkOption {
      type = settingsType;
      default = { };
      example = {
        LOG_LEVEL = "warn";
        COUNTER_FENCE = true;
        DRAIN_LAME_DUCK = "5s";
      };
      description = ''
        Settings of all instances: environment variables as `abukiks --help` lists them. They are
        checked by the program itself when the system is built. Everybody can read them in the store:
        a secret belongs in {option}`services.abukiks.credentials`.
      '';
    };

    environmentFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = [ "/run/secrets/abukiks.env" ];
      description = ''
        Files with more settings, as `NAME=value` lines, read when an instance starts. A change of a
        file restarts nothing: have the secrets manager do that, such as by
        `sops.secrets."abukiks.env".restartUnits = [ "abukiks@5000.service" ]`.
      '';
    };

    credentials = mkOption {
      type = types.attrsOf types.path;
      default = { };
      example = {
        redis-url = "/run/secrets/redis-url";
      };
      description = ''
        Credentials handed to the instances by systemd, readable by them alone: {manpage}`systemd.exec(5)`,
        "CREDENTIALS". `redis-url` is a file whose first line is the URL of Redis.
      '';
    };

    redis = {
      createLocally = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Run a Redis on this host for Abukiks alone, on a unix socket, which writes every increment to
          disk before it is acknowledged.
        '';
      };
      overTcp = mkOption {
        type = types.bool;
        default = redisUrl == null || !lib.hasPrefix "unix:" redisUrl;
        defaultText = lib.literalMD "whether the URL is none of a unix socket, or is not known here";
        description = ''
          Let the instances reach Redis by TCP, on this host or in a private network; for any other
          address add `systemd.services."abukiks@".serviceConfig.IPAddressAllow`. Without it they have
          no network at all but the listening socket that they inherit.
        '';
      };
      url = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "rediss://redis.example.org/";
        description = ''
          The Redis to count in. For a URL with a password use {option}`services.abukiks.credentials`.
        '';
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Open the ports of the instances in the firewall.";
    };

    nginx = {
      enable = lib.mkEnableOption "nginx in front of the instances, balancing over them";
      virtualHost = mkOption {
        type = types.str;
        default = "localhost";
        example = "counter.example.org";
        description = ''
          Name of the virtual host; {option}`services.nginx.virtualHosts` sets it up further, with TLS
          for one. Health and metrics are not exposed there.
        '';
      };
    };

    prometheus.enable = mkOption {
      type = types.bool;
      default = config.services.prometheus.enable;
      defaultText = lib.literalExpression "config.services.prometheus.enable";
      description = "Have this host's Prometheus scrape the instances that start at boot.";
    };
  };

  config = mkIf cfg.enable {
    assertions =
      let
        inStore = file: lib.hasPrefix builtins.storeDir (toString file);
        sources = lib.filter (source: source.given) [
          {
            name = "redis.createLocally";
            given = cfg.redis.createLocally;
          }
          {
            name = "redis.url";
            given = cfg.redis.url != null;
          }
          {
            name = "credentials.redis-url";
            given = cfg.credentials ? redis-url;
          }
          {
            name = "settings.REDIS_URL";
            given = lib.any (settings: settings.REDIS_URL or null != null) allSettings;
          }
          {
            name = "settings.REDIS_URL_FILE";
            given = lib.any (settings: settings.REDIS_URL_FILE or null != null) allSettings;
          }
        ];
        names = lib.concatMapStringsSep ", " (source: source.name) sources;
      in
      [
        {
          assertion = lib.length sources <= 1;
          message = "services.abukiks says more than once where Redis is, by ${names}; keep one of them.";
        }
        {
          assertion = sources != [ ] || cfg.environmentFiles != [ ];
          message = "services.abukiks does not say where Redis is; set redis.createLocally, redis.url or credentials.redis-url.";
        }
        {
          assertion = redisUrl == null || builtins.match ".*(:[^/@]*@|[?&]pass=).*" redisUrl == null;
          message = "services.abukiks.redis.url holds a password, which everybody could read in the store; hand the URL over by credentials.redis-url.";
        }
        {
          assertion = !lib.any (settings: settings ? HOST || settings ? PORT) allSettings;
          message = "services.abukiks.settings has HOST or PORT, but systemd binds the sockets; use instances and listenAddress.";
        }
      ]
      ++ map (port: {
        assertion = builtins.match "[1-9][0-9]{0,4}" port != null && lib.toInt port <= 65535;
        message = "services.abukiks.instances.\"${port}\" is not a port; it takes a number from 1 to 65535.";
      }) ports
      ++ map (file: {
        assertion = !inStore file;
        message = "services.abukiks: ${toString file} is in the store, where everybody can read it; name a file that is on the host alone.";
      }) (cfg.environmentFiles ++ lib.attrValues cfg.credentials);

    system.checks = lib.optionals (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) (
      [ (checkedConfig "common" common) ]
      ++ lib.mapAttrsToList (port: instance: checkedConfig port (common // ownOf instance)) (
        lib.filterAttrs (_: instance: ownOf instance != { }) cfg.instances
      )
    );

    systemd = {
      packages = [ cfg.package ] ++ lib.optional cfg.redis.overTcp networkAccess;

      targets.abukiks = {
        overrideStrategy = "asDropin";
        wantedBy = [ "multi-user.target" ];
      };

      services = {
        "abukiks-admin@" = {
          overrideStrategy = "asDropin";
          path = [ pkgs.gawk ];
        };
        "abukiks@" = {
          overrideStrategy = "asDropin";
          # Else a switch would stop instances first, and a visitor in between would have the socket
          # start the old program again.
          stopIfChanged = false;
          enableDefaultPath = false;
          environment = templateEnvironment;
          wants = mkIf cfg.redis.createLocally [ "redis-abukiks.service" ];
          after = mkIf cfg.redis.createLocally [ "redis-abukiks.service" ];
          serviceConfig = lib.mkMerge [
            (mkIf (cfg.environmentFiles != [ ]) { EnvironmentFile = cfg.environmentFiles; })
            (mkIf (cfg.credentials != { }) {
              LoadCredential = [
                "" # forget the one of the unit file, in /etc/credstore
              ]
              ++ lib.mapAttrsToList (name: file: "${name}:${file}") cfg.credentials;
            })
            (mkIf cfg.redis.createLocally {
              SupplementaryGroups = [ config.services.redis.servers.abukiks.group ];
            })
          ];
        };
      }
      # A drop-in of its own, be it empty, has a switch stop the instance once it is taken out.
      // lib.mapAttrs' (
        port: instance:
        lib.nameValuePair "abukiks@${port}" {
          overrideStrategy = "asDropin";
          stopIfChanged = false;
          enableDefaultPath = false;
          environment = instanceEnvironment instance;
          wantedBy = mkIf (instance.startMode == "eager") [
            "multi-user.target"
            "abukiks.target"
          ];
        }
      ) cfg.instances;

      sockets = lib.mkMerge [
        (mkIf (cfg.listenAddress != null) {
          "abukiks@" = {
            overrideStrategy = "asDropin";
            socketConfig.ListenStream = [
              "" # forget the one of the unit file
              "${cfg.listenAddress}:%i"
            ];
          };
        })
        (lib.genAttrs (map (port: "abukiks@${port}") ports) (_: {
          overrideStrategy = "asDropin";
          wantedBy = [
            "sockets.target"
            "abukiks.target"
          ];
        }))
      ];
    };

    services = {
      redis.servers.abukiks = mkIf cfg.redis.createLocally {
        enable = true;
        # What was acknowledged is on disk. One write serves a whole batch of visits.
        appendOnly = true;
        appendFsync = "always";
        save = [ ];
      };

      nginx = mkIf cfg.nginx.enable {
        enable = true;
        upstreams.abukiks = {
          # examples/nginx.conf says why.
          extraConfig = "zone abukiks 64k;";
          servers = lib.genAttrs (map addressOf ports) (_: {
            fail_timeout = "1s";
          });
        };
        virtualHosts.${cfg.nginx.virtualHost}.locations = {
          "/" = {
            proxyPass = "http://abukiks";
            recommendedProxySettings = false;
            extraConfig = "include ${./proxy.conf};";
          };
        }
        // lib.genAttrs [ "= /healthz" "= /readyz" "= /metrics" ] (_: {
          return = "404";
        });
      };

      prometheus.scrapeConfigs = mkIf cfg.prometheus.enable [
        {
          job_name = "abukiks";
          # One that is to end when nobody comes would be kept awake.
          static_configs = [ { targets = map addressOf eagerPorts; } ];
        }
      ];
    };

    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall (map lib.toInt ports);

    # `abukiks-admin`, which runs an admin process (factor XII) with all that the service has.
    environment.systemPackages = [ cfg.package ];
  };

  meta.maintainers = [ ];
}
